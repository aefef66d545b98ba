import pytest

from mta_jax.plan.program_text import collectives

PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %x = bf16[8,4]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %sent = (bf16[8,4]{1,0}, bf16[8,4]{1,0:S(1)}, u32[], u32[]{:S(2)}) collective-permute-start(%x)
  ROOT %out = (s32[], bf16[8,4]) tuple(%i, %x)
}

%inner_condition (p: (s32[], bf16[8,4])) -> pred[] {
  %three = u32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%i, %three), direction=LT
}

%meanwhile (x: f32[2,2]) -> f32[4,2] {
  %goes_on = f32[4,2]{1,0} all-gather(%x), channel_id=9, frontend_attributes={chain_id="1"}
}

%begin (x: f32[2,2]) -> f32[4,2] {
  %begins = f32[4,2]{1,0} all-gather(%x), channel_id=9, frontend_attributes={chain_id="1"}
}

%body (p: (s32[], f32[16])) -> (s32[], f32[16]) {
  %beside = f32[4,2]{1,0} fusion(%x), kind=kCustom, calls=%meanwhile
  %reduced = (f32[16]{0}, bf16[2,2]{1,0}) all-reduce(%a, %b), to_apply=%add
  %loop = (s32[], bf16[8,4]) while(%t), condition=%inner_condition, body=%inner_body
  ROOT %out = (s32[], f32[16]) tuple(%i, %y)
}

%condition (p: (s32[], f32[16])) -> pred[] {
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}

%first_half (x: f8e4m3fn[2]) -> f8e4m3fn[8] {
  %once = f8e4m3fn[8]{0} all-gather(%x), channel_id=4, frontend_attributes={chain_id="0"}
}

%second_half (x: f8e4m3fn[2]) -> f8e4m3fn[8] {
  %again = f8e4m3fn[8]{0} all-gather(%x), channel_id=4, frontend_attributes={chain_id="0"}
}

ENTRY %main (x: f32[16]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  %long = f32[4,2]{1,0} fusion(%x), kind=kCustom, calls=%begin
  %begun = f8e4m3fn[8]{0} fusion(%x), kind=kCustom, calls=%first_half
  %done = f8e4m3fn[8]{0} fusion(%x), kind=kCustom, calls=%second_half
  %gathered = f32[32,4]{1,0} all-gather(%x), dimensions={0}
  %scattered = f32[4]{0} reduce-scatter(%x), channel_id=1, dimensions={0}, to_apply=%add
  %started = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}
  %loop = (s32[], f32[16]) while(%t), condition=%condition, body=%body
  ROOT %y = f32[16] get-tuple-element(%loop), index=1
}
"""


@pytest.fixture(scope="module")
def found():
    return {(c.kind, c.shapes): c for c in collectives(PROGRAM)}


def test_a_loop_counts_as_often_as_it_runs(found):
    reduced = found["all-reduce", (("f32", (16,)), ("bf16", (2, 2)))]
    assert reduced.runs == 5
    assert found["collective-permute", (("bf16", (8, 4)),)].runs == 15


def test_bytes_are_those_of_results_and_twice_for_an_all_reduce(found):
    assert found["all-reduce", (("f32", (16,)), ("bf16", (2, 2)))].bytes_sent == 5 * 2 * (64 + 8)
    assert found["collective-permute", (("bf16", (8, 4)),)].bytes_sent == 15 * 64
    assert found["all-gather", (("f32", (32, 4)),)].bytes_sent == 512


def test_of_a_collective_in_halves_the_result_counts(found):
    assert found["all-gather", (("f32", (32,)),)].bytes_sent == 128


def test_what_the_compiler_notes_of_a_loop_counts_first():
    note = ', backend_config={"known_trip_count":{"n":"7"},"x":1}'
    noted = PROGRAM.replace("body=%body", f"body=%body{note}")
    assert {c.runs for c in collectives(noted) if c.kind == "all-reduce"} == {7}


def test_a_reduce_scatter_sends_what_it_takes(found):
    assert found["reduce-scatter", (("f32", (16,)),)].bytes_sent == 64


def test_a_collective_behind_several_fusions_counts_once(found):
    assert found["all-gather", (("f8", (8,)),)].bytes_sent == 8
    assert len(collectives(PROGRAM)) == len(found)


def test_a_collective_that_goes_on_beside_a_loop_is_sent_once(found):
    assert found["all-gather", (("f32", (4, 2)),)].runs == 1


def test_nothing_else_is_found(found):
    assert len(found) == 7
