"""Recipes are checked before anything is computed, every mistake at once."""

from pathlib import Path

import pytest

from bloodedge.errors import UsageError
from bloodedge_train.recipe import Recipe, load_recipe, packaged


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_every_packaged_recipe_is_sound_and_says_what_it_is_for() -> None:
    assert {"honest", "paper", "paper_70_15_15", "demo"} <= set(packaged("recipe"))
    for name in packaged("recipe"):
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.about


def test_a_misspelt_key_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'fit\.learning_rat: unknown key\. Did you mean "learning_rate"\?'):
        load_recipe(written(tmp_path, "[fit]\nlearning_rat = 1e-3\n"))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = '[fit]\nepochs = 0\nkeep = "worst"\n[imaging]\nsize = 96\n[split]\ntest = 0.9\n[augmnt]\nflip = false\n'
    with pytest.raises(UsageError) as caught:
        load_recipe(written(tmp_path, text))
    told = str(caught.value)
    assert "has 5 mistakes" in told
    for words in ("fit.epochs", "fit.keep", "'best', 'last' or 'average'", "imaging.size", "split.test", "augmnt"):
        assert words in told
    assert 'Did you mean "augment"?' in told
    assert 'Did you mean "size_px"?' in told


def test_an_older_versions_recipe_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    older = '[imaging]\ncolour = "rgb"\n[network]\nstain = "none"\n[distil]\nweight = 0.7\n'
    assert load_recipe(written(tmp_path, older)) == load_recipe(written(tmp_path, ""))
    for key, section in (('stain = "learned"', "network"), ('colour = "density"', "imaging")):
        with pytest.raises(UsageError, match=f"{key} is not supported any more; train again without it"):
            load_recipe(written(tmp_path, f"[{section}]\n{key}\n"))


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = load_recipe("paper")
    assert (recipe.imaging.size_px, recipe.split.kind, recipe.split.test) == (224, "image", 0.3)
    fit = recipe.fit
    assert (fit.optimiser, fit.learning_rate, fit.epochs, fit.batch) == ("adamax", 1e-3, 40, 40)
    assert (fit.stop_after, fit.reduce_after, fit.reduce_factor) == (5, 2, 0.5)
    assert recipe.augment.rotate
    assert recipe.augment.flip
    assert recipe.augment.contrast > 0
    smaller = load_recipe("paper_70_15_15")
    assert (smaller.split.validation, smaller.split.test) == (0.15, 0.15)
    assert smaller.fit == fit


def test_an_unknown_recipe_is_told_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r'no recipe "honst"\. Did you mean "honest"\? Recipes: .*honest'):
        load_recipe("honst")


def test_a_recipe_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_recipe_file_is_named_after_itself_and_keeps_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "[fit]\nepochs = 3\n"))
    assert recipe == Recipe(name="mine", fit=Recipe().fit.model_copy(update={"epochs": 3}))
