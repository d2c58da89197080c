"""The options of fit that are refused before anything is loaded, and those that are not."""

import re
from pathlib import Path

import pytest

from scenewise.apps.options.fit import check_words, known_options, short_help
from scenewise.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--lr 0.1", "unknown option '--lr'; did you mean '--model.lr'?"),
        ("--epochs 3", "unknown option '--epochs'; did you mean '--trainer.max_epochs'?"),
        ("--batch-size 3", "unknown option '--batch-size'; did you mean '--data.batch_size'?"),
        ("--backbone tiny", "unknown option '--backbone'; did you mean '--model.backbone'?"),
        ("--model.netwrk fcn", "did you mean '--model.network'?"),
        ("--trainer.max_epoch=3", "did you mean '--trainer.max_epochs'?"),
        ("--xyzzy", "unknown option '--xyzzy'; see scenewise fit --help, or --help-all"),
        ("--model.net fcn", "unknown option '--model.net'"),  # no abbreviations
        ("--model.lr.x 3", "unknown option '--model.lr.x'"),
        ("--model.lr fast", "--model.lr is 'fast' but must be a number or null"),
        ("--model.warmup 1.5", "--model.warmup is '1.5' but must be a whole number"),
        ("--data.flip=maybe", "--data.flip is 'maybe' but must be true or false"),
        ("--model.network danett", "--model.network is 'danett'; did you mean 'danet'? Choose"),
        ("--data.format citscapes", "did you mean 'cityscapes'? Choose one of auto, scenes,"),
        ("--model.quality bst", "did you mean 'best'?"),
        ("--model.protocol danet_s", "did you mean 'danet_ss'?"),
    ],
)
def test_refused(words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_words("fit", words.split())


@pytest.mark.parametrize(
    "words",
    [
        "DIR --data.root=x --model.lr 1e-3 --model.lr null --trainer.max_epochs -1",
        "--model.head.recurrence 3 --model.head {} --data.flip yes --data.crop_size [3,4]",
        "--trainer.logger CSVLogger --trainer.logger.save_dir x --trainer.callbacks+ EarlyStopping",
        "--trainer.callbacks.patience 3 --trainer.limit_val_batches 1.0 --trainer.fast_dev_run 3",
        "--config a.yaml --print_config=skip_null --seed_everything 1 --ckpt_path last --name x",
        "--model m.yaml --data d.yaml --trainer t.yaml --checkpoint c.yaml --ema 0.99 --help-all",
        "--checkpoint.monitor x --trainer.help --trainer.logger.help CSVLogger",
    ],
)
def test_accepted(words: str) -> None:
    check_words("fit", words.split())


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_the_help_has_known_options_and_about_thirty(command: str) -> None:
    text = short_help(command)
    shown = re.findall(r"^  --([\w.-]+)", text, re.MULTILINE)
    assert 10 < len(shown) < 45
    assert ("without" in shown) == (command == "test")
    short = {"model", "protocol", "quality", "start", "unlabelled"}
    assert set(shown) - short <= set(known_options(command))
    assert "examples:" in text
    assert max(map(len, text.splitlines())) <= 100
