"""Text goes in and text comes out: order, empty lines, long lines, versions."""

import io
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.fitted_run import fitted_run

from resumable_tf.data.tokenizer import EOS_ID
from resumable_tf.errors import DataFormatError, UsageError
from resumable_tf.serving.beam import beam_search
from resumable_tf.serving.evaluate import evaluate
from resumable_tf.serving.export import export_translator
from resumable_tf.serving.export_directory import find_export, new_version
from resumable_tf.serving.stream import read_lines, translate_stream
from resumable_tf.serving.translator import Translator

LONGEST = 30


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    run = fitted_run()
    directory = str(tmp_path_factory.mktemp("exports"))
    model = run.records.load_tokenizer().model
    export_translator(
        run.model,
        model,
        directory,
        beam_size=3,
        max_source_length=LONGEST,
        source={"step": 7},
    )
    return directory


@pytest.fixture(scope="module")
def translator(exports):
    return Translator.load(exports)


@pytest.fixture(scope="module")
def known():
    return fitted_run().known


def test_what_was_learned_by_heart_is_translated_word_for_word(translator, known):
    found = translator.translate([source for source, _ in known])
    assert [translation.text for translation in found] == [text for _, text in known]
    assert all(-1 < translation.score < 0 for translation in found)


def test_the_exported_graph_computes_what_the_model_does(translator, known):
    run = fitted_run()
    tokenizer = run.records.load_tokenizer()
    for source, _ in known[:3]:
        ids = tf.constant([[*tokenizer.encode([source])[0], EOS_ID]])
        expected = beam_search(run.model, ids, beam_size=3)
        found = translator.translate([source])[0]
        assert found.text == tokenizer.decode(expected.tokens[:, :-1].numpy())[0]
        # Rounding: a graph may join operations that are apart in eager mode.
        np.testing.assert_allclose(found.score, expected.scores[0], atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_order_is_kept_whatever_the_batch_size(translator, known, batch_size):
    pairs = known[9::-1]
    lines = [source for source, _ in pairs]
    found = translator.translate(lines, batch_size=batch_size)
    assert [translation.text for translation in found] == [text for _, text in pairs]


def test_empty_lines_give_empty_lines(translator, known):
    source, text = known[0]
    found = translator.translate(["", source, "   ", ""])
    assert [translation.text for translation in found] == ["", text, "", ""]
    assert [translation.score == 0 for translation in found] == [1, 0, 1, 1]
    assert translator.translate([]) == []


def test_of_a_long_line_only_the_beginning_is_translated(translator, known):
    line = " ".join(source for source, _ in known)
    cut, whole = translator.translate([line, known[0][0]])
    assert cut.is_truncated and not whole.is_truncated
    assert cut.text == translator.translate([line + " " + line])[0].text


def test_beam_sizes_other_than_the_exported_one_can_be_asked_for(exports, known):
    lines = [source for source, _ in known[:5]]
    texts = [text for _, text in known[:5]]
    for beam in (1, 6):
        translator = Translator.load(exports, beam=beam)
        assert translator.beam_size == beam
        assert [found.text for found in translator.translate(lines)] == texts
    with pytest.raises(UsageError, match="--beam 0: use 1 to 64"):
        Translator.load(exports, beam=0)


def test_lines_are_written_as_they_come_in(translator, known):
    (source, text), (other, other_text) = known[:2]

    class Pieces:
        def __init__(self, *pieces):
            self.pieces = list(pieces)
            self.written = []

        def read1(self, size):
            self.written.append(target.getvalue())
            return self.pieces.pop(0) if self.pieces else b""

    target = io.BytesIO()
    half, rest = source[:5].encode(), source[5:].encode()
    pieces = Pieces(half, rest + b"\n\n" + other[:3].encode(), other[3:].encode())
    assert translate_stream(translator, pieces, target) == 0
    first = f"{text}\n\n".encode()
    assert pieces.written[:3] == [b"", b"", first]
    assert target.getvalue() == first + f"{other_text}\n".encode()


def test_lines_are_split_at_newlines_only_and_bad_bytes_are_replaced():
    blocks = read_lines(io.BytesIO("a\r\nb\u2028c\n\n".encode() + b"\xff d"))
    assert [line for lines in blocks for line in lines] == [
        "a",
        "b\u2028c",
        "",
        "\ufffd d",
    ]
    assert list(read_lines(io.BytesIO(b""))) == []


def test_bleu_and_chrf_are_sacrebleus_with_their_signatures(translator, known):
    result = evaluate(translator, known[:8])
    assert result["bleu"] == pytest.approx(100)
    assert result["chrf"] == pytest.approx(100)
    assert result["translations"] == [text for _, text in known[:8]]
    assert "tok:13a" in result["bleu_signature"]
    assert "nc:6" in result["chrf_signature"]
    shifted = [(source, known[i + 1][1]) for i, (source, _) in enumerate(known[:8])]
    assert evaluate(translator, shifted)["bleu"] < 60
    with pytest.raises(UsageError, match="no pairs"):
        evaluate(translator, [])


def test_an_export_says_where_it_comes_from(exports):
    info = find_export(exports)
    run = fitted_run()
    assert info.content["source"] == {"step": 7}
    assert info.content["tokenizer"] == run.records.load_tokenizer().fingerprint
    assert info.content["beam_size"] == 3
    sizes = {
        name: os.path.getsize(os.path.join(info.path, name))
        for name in info.content["files"]
    }
    assert sizes == info.content["files"]
    assert info.size_bytes == sum(sizes.values())


def test_an_export_holds_the_float32_weights_and_nothing_else(exports):
    reader = tf.train.load_checkpoint(
        find_export(exports).path + "/variables/variables"
    )
    shapes = reader.get_variable_to_shape_map()
    shapes.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
    model = fitted_run().model
    expected = sorted(tuple(weight.shape) for weight in model.trainable_variables)
    assert sorted(map(tuple, shapes.values())) == expected
    dtypes = reader.get_variable_to_dtype_map()
    assert {dtypes[key] for key in shapes} == {tf.float32}


def make_version(directory):
    with new_version(str(directory)) as publication:
        content = {"format_version": 1, "files": {}}
        for name, text in (
            ("saved_model.pb", ""),
            ("export.json", json.dumps(content)),
        ):
            with open(os.path.join(publication.work, name), "w") as file:
                file.write(text)
    return publication.path


def test_versions_count_up_and_the_newest_is_found(tmp_path):
    directory = tmp_path / "run" / "export"
    paths = [make_version(directory) for _ in range(11)]
    assert [os.path.basename(path) for path in paths] == [str(i) for i in range(1, 12)]
    for place in (directory, tmp_path / "run", directory / "11"):
        assert find_export(str(place)).path == str(directory / "11")
    assert find_export(str(directory / "2")).version == "2"


def test_a_failed_export_leaves_nothing_and_hides_nothing(tmp_path):
    make_version(tmp_path)
    with pytest.raises(OSError, match="disk full"), new_version(str(tmp_path)) as one:
        (tmp_path / one.work / "saved_model.pb").write_bytes(b"half")
        assert find_export(str(tmp_path)).version == "1"
        raise OSError("disk full")
    assert os.listdir(tmp_path) == ["1"]


def test_a_half_uploaded_version_does_not_count(tmp_path):
    make_version(tmp_path)
    (tmp_path / "2" / "variables").mkdir(parents=True)
    (tmp_path / "2" / "export.json").write_text("{}")
    assert find_export(str(tmp_path)).version == "1"
    assert make_version(tmp_path).endswith("3")


def test_an_object_store_gets_the_model_file_last():
    directory = "memory://bucket/run/export"
    assert make_version(directory) == f"{directory}/1"
    assert make_version(directory) == f"{directory}/2"
    assert find_export("memory://bucket/run").path == f"{directory}/2"


def test_no_export_and_a_damaged_one_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match=r"no exported model\.\nMake one with"):
        Translator.load(str(tmp_path))
    path = make_version(tmp_path)
    with pytest.raises(DataFormatError, match="Export the model again"):
        Translator.load(str(tmp_path))
    with open(os.path.join(path, "export.json"), "w") as file:
        file.write('{"format_version": 9, "files": {}}')
    with pytest.raises(DataFormatError, match="format version 9"):
        find_export(str(tmp_path))


def test_settings_that_can_not_work_are_refused(tmp_path):
    run = fitted_run()
    for settings, message in (
        ({"beam_size": 0}, "--beam 0: use 1 to 64"),
        ({"alpha": -0.1}, "alpha -0.1 must be 0 or more"),
        ({"max_source_length": 1}, "max_source_length 1 must be at least 2"),
    ):
        with pytest.raises(UsageError, match=message):
            export_translator(run.model, b"", str(tmp_path / "x"), **settings)
    assert not (tmp_path / "x").exists()
