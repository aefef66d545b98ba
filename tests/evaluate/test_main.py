import importlib
import subprocess
import sys

import pytest

from mta_jax.evaluate.__main__ import TASKS, main


def test_help_says_a_line_about_each_task(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for task, (_, text) in TASKS.items():
        assert [line for line in lines if line.split(" ", 1)[0] == task and line.endswith(text)]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_command(task):
    module, _ = TASKS[task]
    assert callable(importlib.import_module(f"mta_jax.evaluate.{module}").main)


def test_tasks_are_imported_only_when_they_are_asked_for():
    program = (
        "import sys\n"
        "from mta_jax.evaluate.__main__ import TASKS, main\n"
        "assert main(['--help']) == 0 and main(['perplexities']) == 2\n"
        "modules = [f'mta_jax.evaluate.{module}' for module, _ in TASKS.values()]\n"
        "assert not [module for module in modules if module in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], f"which task?; there are {', '.join(TASKS)}"),
        (["perplexty"], "'perplexty': no such task; did you mean perplexity?; there are "),
        (["zzz"], f"'zzz': no such task; there are {', '.join(TASKS)}"),
    ],
)
def test_an_unknown_task_is_one_line_with_the_nearest_one(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mta_jax.evaluate: error: {message}")
    assert error.count("\n") == 1
