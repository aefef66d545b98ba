from tests.ops.attention_suite import AttentionSuite


class TestXla(AttentionSuite):
    implementation = "xla"
