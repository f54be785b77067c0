"""DeBERTa as the Hub has it (a half-precision pickle, spm.model, no tokenizer.json), and what a run saves of it."""

import random

import pytest
import torch
from encoders import WORDS, deberta_config, folder_of
from repositories import use_cache
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from qwen_align.errors import ConfigError
from qwen_align.reward.encode import PairEncoder
from qwen_align.reward.network import fresh, saved, saved_tokenizer

TEXTS = (
    "",
    "\n",
    "a red\n\n\tcat",
    "x [SEP] y [CLS] [PAD] [MASK] [UNK]",
    " café cafe\u0301 ",
    "漢字 🙂 \u00a0 \x00",
    "<0x0A> ▁ [SEP",
)


def vocabulary(path):
    """A SentencePiece model of the real one's layout: [PAD] [CLS] [SEP] [UNK] are 0 to 3, and [MASK] is added behind."""
    proto = sentencepiece_model_pb2.ModelProto()
    special = {"[PAD]": 3, "[CLS]": 3, "[SEP]": 3, "[UNK]": 2}  # control, unknown
    pieces = [*special, "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyzCELPS[]é"]
    for piece in pieces:
        kind = special.get(piece, 1)
        proto.pieces.add(piece=piece, score=0.0 if kind != 1 else -1.0 - len(piece) / 100, type=kind)
    proto.trainer_spec.model_type, proto.trainer_spec.unk_id, proto.trainer_spec.pad_id = 1, 3, 0
    proto.trainer_spec.bos_id, proto.trainer_spec.eos_id = 1, 2
    proto.normalizer_spec.name = "identity"
    path.write_bytes(proto.SerializeToString())
    return len(pieces)


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    """A commit in the Hub's cache, with weights that are no fresh ones."""
    home = tmp_path_factory.mktemp("home")
    repository = home / "hub" / "models--org--deberta"
    folder = repository / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    size = vocabulary(folder / "spm.model") + 3
    config = deberta_config(size, num_hidden_layers=1, intermediate_size=32)
    torch.manual_seed(3)
    weights = AutoModel.from_config(config).half().state_dict()
    torch.save({f"deberta.{name}": value for name, value in weights.items()}, folder / "pytorch_model.bin")
    config.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    return home, weights


@pytest.fixture
def built(deberta, monkeypatch):
    use_cache(monkeypatch, deberta[0])
    return fresh("org/deberta", "pair", None, [])


@pytest.mark.parametrize("architecture", ["pair", "siamese"])
def test_a_half_precision_pickle_is_loaded_in_single_precision_and_said_aloud(deberta, monkeypatch, capsys, architecture):
    home, weights = deberta
    use_cache(monkeypatch, home)
    network, _ = fresh("org/deberta", architecture, None, [])
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    loaded = dict((network.deberta if architecture == "pair" else network.encoder).named_parameters())
    assert all(value.equal(weights[name].float()) for name, value in loaded.items())
    said = "no safetensors; pytorch_model.bin is a pickle, read with weights_only=True: no code in it runs"
    assert capsys.readouterr().out == f"reward.base=org/deberta: {said}\n"


def test_a_vocabulary_of_sentencepiece_keeps_its_special_ids(built):
    _, tokenizer = built
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer("a red cat").input_ids[0] == 1
    assert tokenizer("a red cat").input_ids[-1] == 2


def test_a_run_reads_the_ids_that_it_was_trained_on(built, tmp_path):
    _, tokenizer = built
    tokenizer.save_pretrained(tmp_path)
    back = saved_tokenizer(str(tmp_path))
    assert isinstance(back, PreTrainedTokenizerFast)
    rng = random.Random(0)
    letters = "".join(WORDS) + " \n\t[]SEPé漢\U0001f642\u00a0\u0301"
    texts = [*TEXTS, *("".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(500))]
    trained, scoring = (PairEncoder(one, "pair", 64) for one in (tokenizer, back))
    assert scoring.encode(texts, texts[::-1]) == trained.encode(texts, texts[::-1])
    assert [back(text).input_ids for text in texts] == [tokenizer(text).input_ids for text in texts]


def test_a_special_token_that_is_written_out_forges_no_frame(built):
    pairs = PairEncoder(built[1], "pair", 64)
    for row in pairs.encode(TEXTS, TEXTS[::-1]):
        assert [i for i in row.ids if i in pairs.special] == [1, 2, 2], "the frame's own"


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("load", ["fresh", "saved"])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, load):
    folder = folder_of("distilbert", tmp_path / "model", labels=1)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"weight": Malicious(str(tmp_path / "ran"))}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=rf"reward\.(base|folder)={folder}: cannot be loaded"):
        fresh(folder, "pair", None, []) if load == "fresh" else saved(folder, "pair", None, ours=False)
    assert not (tmp_path / "ran").exists()


def test_a_trained_reward_model_may_be_a_pickle_too(tmp_path, capsys):
    folder = folder_of("distilbert", tmp_path, labels=1)
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    loaded, _ = saved(folder, "pair", None, ours=False)
    assert loaded.classifier.weight.equal(network.classifier.weight)
    assert f"reward.folder={folder}: no safetensors" in capsys.readouterr().out
