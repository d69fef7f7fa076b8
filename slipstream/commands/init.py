"""`slipstream init`: a new recommender, of a preset's size or on top of any Hugging Face causal LM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder to write.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="Whose items; `slipstream data list` has the names.")]
DataPath = Annotated[Path | None, typer.Option("--data", metavar="PATH", help="Where the data set lies.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(
    out: Out,
    dataset: DatasetName = "ml-100k",
    data: DataPath = None,
    preset: Annotated[str | None, typer.Option(help="tiny, small or base: random weights in Qwen3's layout.")] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A causal LM with a tokenizer: its vocabulary gets item tokens.")
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Items of history in a prompt (--base only).")] = None,
    prefix: Annotated[str | None, typer.Option(help="Words before the history (--base only).")] = None,
    separator: Annotated[str | None, typer.Option(help="Words behind each item (--base only).")] = None,
    reserved_slots: Annotated[int | None, typer.Option(min=0, help="Rows kept for items born later.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights (--preset only).")] = 0,
) -> None:
    """Write a new recommender: --preset for one trained from nothing, --base for one on top of a language model."""
    if (preset is None) == (base is None):
        raise typer.BadParameter("give one of --preset and --base")
    prompt = {"window": window, "prefix_text": prefix, "separator_text": separator}
    given = {name: value for name, value in prompt.items() if value is not None}
    if preset is not None and given:
        raise typer.BadParameter("--window, --prefix and --separator belong to --base; a preset has its own prompt")
    from catalogue.datasets import DataError, load
    from recommender.base_model import base_recommender
    from recommender.initialise import preset_recommender
    from recommender.loading import save_recommender

    try:
        items = load(dataset, data).items
        if preset is not None:
            recommender, tokenizer = preset_recommender(preset, items, seed, reserved_slots), None
        elif base is not None:
            recommender, tokenizer = base_recommender(base, items, reserved_slots=reserved_slots, **given)  # type: ignore[arg-type]
    except (DataError, ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    save_recommender(recommender, out)
    parameters = sum(parameter.numel() for parameter in recommender.model.parameters())
    vocabulary = recommender.vocabulary
    print(f"{out}: {parameters:,} parameters, {vocabulary.num_items:,} items, {vocabulary.reserved_slots:,} reserved")
