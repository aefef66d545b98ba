"""`python -m mta_jax.generate --checkpoint RUN --prompt TEXT`: writes on from text."""

import json
import sys
from collections.abc import Callable
from typing import Any

from mta_jax.command_line import parse
from mta_jax.command_line.live_line import LiveLine
from mta_jax.command_line.subcommands import exit_code_of, quiet_logs
from mta_jax.files import check_output, write_output
from mta_jax.generate.clock import Clock
from mta_jax.generate.config import GenerateConfig
from mta_jax.generate.language_model import LanguageModel, Text, load_model
from mta_jax.generate.prompts import read_prompts

_PROG = "mta_jax.generate"


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    quiet_logs("absl")
    config, _ = parse(
        GenerateConfig,
        arguments,
        prog=_PROG,
        description="Continue text with a trained language model.",
        has_dry_run=False,
    )
    return exit_code_of(lambda: _run(config), prog=_PROG)


def _run(config: GenerateConfig) -> int:
    prompts = [config.prompt or ""]
    if config.prompt_file is not None:
        prompts = read_prompts(config.prompt_file)
    if config.output is not None:
        check_output(config.output, "output")
    model = load_model(config.checkpoint, context_length=config.context_length)
    model.check(prompts, max_new_tokens=config.max_new_tokens, limits=config.limits)
    clock = Clock(config.block)
    if config.output is not None:
        texts = _in_batches(config, model, prompts, clock, show_progress=True)
        lines = "".join(json.dumps(_row(config, text), ensure_ascii=False) + "\n" for text in texts)
        write_output(config.output, "output", lines)
    elif len(prompts) * config.num_samples == 1:
        print(prompts[0], end="", flush=True)
        _batch(config, model, prompts, clock, [0], _print_at_once)
        print()
    else:
        for number, text in enumerate(_in_batches(config, model, prompts, clock), 1):
            print(f"--- {number} ({text.finish})\n{text.prompt}{text.text}")
    print(clock.summary(), file=sys.stderr)
    return 0


def _print_at_once(_: int, text: str) -> None:
    print(text, end="", flush=True)


def _in_batches(
    config: GenerateConfig,
    model: LanguageModel,
    prompts: list[str],
    clock: Clock,
    *,
    show_progress: bool = False,
) -> list[Text]:
    """The texts of all prompts; those of about the same length are written together."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    texts: dict[int, list[Text]] = {}
    with LiveLine("generate", len(prompts), unit="prompts") as progress:
        for start in range(0, len(prompts), config.batch_size):
            numbers = order[start : start + config.batch_size]
            found = _batch(config, model, [prompts[number] for number in numbers], clock, numbers)
            for place, number in enumerate(numbers):
                own = slice(place * config.num_samples, (place + 1) * config.num_samples)
                texts[number] = found[own]
            if show_progress:
                progress.update(start + len(numbers), "")
    return [text for number in range(len(prompts)) for text in texts[number]]


def _batch(
    config: GenerateConfig,
    model: LanguageModel,
    prompts: list[str],
    clock: Clock,
    numbers: list[int],
    on_text: Callable[[int, str], None] | None = None,
) -> list[Text]:
    with clock.timing() as timing:
        texts = model.generate(
            prompts,
            max_new_tokens=config.max_new_tokens,
            sampling=config.sampling,
            stop=config.stop_strings,
            num_samples=config.num_samples,
            seed=config.seed,
            numbers=numbers,
            limits=config.limits,
            on_text=on_text,
            on_look=timing.has_block,
        )
        timing.wrote([len(text.tokens) for text in texts])
    return texts


def _row(config: GenerateConfig, text: Text) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": text.prompt, "text": text.text, "finish": text.finish}
    if config.log_probs:
        row["tokens"] = text.tokens.tolist()
        row["log_probs"] = [round(float(value), 6) for value in text.log_probs]
    return row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
