"""What fits into a device's memory, and how profiles of engines are shown."""

import pytest
from simulated_engine_profile import OVERHEAD, engine_profile
from simulated_sweep import model

from mobilellm.accounting.engine_files import can_have_type, engine_cache_bytes
from mobilellm.commands.device_profile import run
from mobilellm.evaluation.engine_profile.results import write_result
from mobilellm.report.device_fit import MemoryLimit, fit_sentences, memory_needs
from mobilellm.units import bytes_from

WIDE = model(4, 256, 512, 8, 4, max_position_embeddings=1024)
CACHE_ENTRIES = 2 * 4 * 4 * 16
"""Keys and values, blocks, heads and width of a head."""


def test_needs_are_weights_cache_and_measured_overhead():
    profile = engine_profile({"wide": WIDE}, kinds=("q8_0", "f32"))
    needs = {
        need.kind: need for need in memory_needs(profile, MemoryLimit(device_bytes=1, context=100))
    }
    assert list(needs) == ["f32", "f16", "q8_0", "q4_0", "q4_1"]
    matrices = 4 * (2 * 256 * 128 + 2 * 256 * 64 + 3 * 256 * 512) + 2048 * 256
    norms = 4 * (2 * 4 + 1) * 256
    measured, unmeasured = needs["q8_0"], needs["q4_0"]
    assert measured.weight_bytes == matrices * 8.5 / 8 + norms
    assert unmeasured.weight_bytes == matrices * 4.5 / 8 + norms
    assert measured.cache_bytes == 100 * CACHE_ENTRIES * 2
    # The profile's own cache, of 32 tokens, is not part of the overhead.
    assert measured.overhead_bytes == OVERHEAD - 32 * CACHE_ENTRIES * 2
    assert unmeasured.overhead_bytes is None
    total = measured.weight_bytes + measured.cache_bytes + measured.overhead_bytes
    assert measured.total_bytes == total
    for device_bytes, fits in ((10 * total, "yes"), (10 * total - 10, "no")):
        assert measured.fits(MemoryLimit(device_bytes=device_bytes)) == fits
    assert unmeasured.fits(MemoryLimit(device_bytes=10 * total)) == "perhaps"
    whole = memory_needs(profile, MemoryLimit(device_bytes=1))
    assert whole[0].cache_bytes == 1024 * CACHE_ENTRIES * 2


def test_types_in_blocks_need_whole_blocks_in_every_row():
    assert can_have_type(WIDE, "llamacpp", "q4_0") and can_have_type(WIDE, "executorch", "8da4w")
    odd = model(4, 112, 224, 7, 7)
    assert not can_have_type(odd, "llamacpp", "q4_0")
    assert not can_have_type(odd, "executorch", "8da4w")
    assert can_have_type(odd, "llamacpp", "f16") and can_have_type(odd, "executorch", "8da8w")
    assert engine_cache_bytes(WIDE, "executorch", 3) == 3 * CACHE_ENTRIES * 4


@pytest.mark.parametrize(
    ("text", "number"),
    [("6GB", 6e9), ("512 MB", 5.12e8), ("1.5GiB", 1.5 * 2**30), ("7kB", 7e3), ("8B", 8)],
)
def test_numbers_of_bytes_are_read(text, number):
    assert bytes_from("--fits", text) == number


@pytest.mark.parametrize("text", ["", "6", "GB", "-1GB", "6iB", "0GB", "6 gigabytes"])
def test_other_texts_are_no_numbers_of_bytes(text):
    with pytest.raises(ValueError, match=r"is not a number of bytes; give e.g. 6GB"):
        bytes_from("--fits", text)


def test_results_are_shown_in_80_columns_with_what_fits_and_on_a_page(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    profile = engine_profile(
        {"wide": WIDE, "deep": model(12, 256, 512, 8, 4)}, kinds=("q8_0", "f32"),
        ms=lambda config: 1.0 * config.num_layers, share=0.6,
    )  # fmt: skip
    path, page = tmp_path / "a.json", tmp_path / "page"
    write_result(profile, path)
    run(["--results", str(path), str(path), "--page", str(page)])
    assert (page / "engine_speed_2.png").exists()
    capsys.readouterr()
    # An earlier page is replaced.
    run(["--results", str(path), "--fits", "1GB", "--share", "0.05", "--page", str(page)])
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert "a phone, 5 rounds in alternation after a warm-up. Other work took 40 % " in printed
    assert "3.00" in printed  # the deep model's time as a ratio to that of the first
    said = " ".join(printed.split())
    for sentence in fit_sentences(profile, MemoryLimit(device_bytes=1e9, share=0.05)):
        assert sentence in said
    assert "wide in llamacpp/q8_0" in said and "5 % of 1 GB are 50 MB" in said
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "<svg" in text and "llamacpp/q8_0/1" in text and "What fits" in text
    assert not (page / "engine_speed_2.png").exists() and "engine_speed_1-" in text
    assert (page / "engine_speed_1.png").stat().st_size > 5_000
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"--page=.*other is in use and is never overwritten"):
        run(["--results", str(path), "--page", str(tmp_path / "other")])
