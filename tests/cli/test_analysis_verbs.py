"""tune, map, diff, measure --sample and stat --matrix as scripts see them, and the report in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import dataplane, one_line
from tests.disks import KIB, MIB, disk_bytes, write_sparse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    first = disk_bytes(6 * MIB, 1, 32 * KIB)
    write_sparse(made / "a.raw", first)
    write_sparse(made / "b.raw", first[: 3 * MIB] + disk_bytes(3 * MIB, 2))
    dataplane("init", made / "store", "--chunk-size", "16K")
    for name in "ab":
        dataplane("import", made / "store", made / f"{name}.raw", "--name", name)
    return made


def tune(*arguments: object, check: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dataplane("tune", *arguments, "--json", check=check).stdout)
    return found


def test_tune_files_patterns_and_stored_images_alike(folder: Path) -> None:
    sizes = ("--chunk-sizes", "16K..64K", "--codecs", "none,zstd:1", "--cdc")
    files = tune(folder / "a.raw", folder / "b.raw", *sizes)
    assert [one["chunk_size"] for one in files["sizes"]] == [16 * KIB, 32 * KIB, 64 * KIB]
    assert files["complete"]
    assert files["exact"]
    for same in (tune(folder / "*.raw", *sizes), tune(folder / "store", "*", *sizes), tune(folder / "store", "a",
                 folder / "b.raw", *sizes)):  # fmt: skip
        for one, other in zip(files["sizes"], same["sizes"], strict=True):
            for key in ("chunks", "data_size", "duplicate_size", "shared_size", "unique_size", "references"):
                assert one[key] == other[key]
        assert same["content_defined"]["sizes"] == files["content_defined"]["sizes"]
    sampled = tune(folder / "*.raw", *sizes, "--sample", "1/2")
    assert not sampled["exact"]
    assert sampled["sizes"][0]["chunks"] == files["sizes"][0]["chunks"]
    assert sampled["sizes"][0]["distinct_chunks_low"] < sampled["sizes"][0]["distinct_chunks_high"]


def test_tune_for_people_names_a_profile(folder: Path) -> None:
    shown = dataplane("tune", folder / "a.raw", "--chunk-sizes", "16K,64K", "--weights", "memory=1", "--cdc").stdout
    assert "~16K zstd:1" in shown
    assert re.search(r"^content-defined chunks would (not )?pay: the best of them, 64K on average", shown, re.M)
    assert "use --chunk-size 64K" in shown
    assert "16K: " in shown
    assert "no profile" in dataplane("tune", folder / "a.raw", "--chunk-sizes", "16K,64K", "--ram", "1K").stdout


def test_tune_gate(folder: Path) -> None:
    common = (folder / "a.raw", "--chunk-sizes", "16K", "--codecs", "none", "--ci")
    assert tune(*common, "--min-ratio", 1)["ci"] == {"passed": True, "problems": []}
    assert len(tune(*common, "--min-ratio", 50, "--max-index", 10, check=6)["ci"]["problems"]) == 2
    assert "--ci" in one_line(dataplane("tune", folder / "a.raw", "--min-ratio", 1, check=2))


def test_tune_trace(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("# offset,length\n0,4096\n1048576,65536\n")
    found = tune(folder / "a.raw", "--chunk-sizes", "4K,1M", "--codecs", "none", "--trace", trace)
    assert [one["trace"]["requests"] for one in found["sizes"]] == [2, 2]
    assert found["sizes"][1]["trace"]["bytes_decoded"] == 2 * MIB
    shown = dataplane("tune", folder / "a.raw", "--chunk-sizes", "1M", "--codecs", "none", "--cdc", "--trace", trace)
    assert re.search(r"dedup +trace +cached\n *1M .* 30\.1x +30\.1x\n *~1M ", shown.stdout)
    for wrong in ("4096\n", "1,0\n", "-1,5\n", "a,b\n", f"{1 << 63},1\n"):
        trace.write_text(wrong)
        assert "line 1" in one_line(dataplane("tune", folder / "a.raw", "--trace", trace, check=2))


@pytest.mark.parametrize(
    "arguments",
    [("--chunk-sizes", "5K"), ("--chunk-sizes", "8M"), ("--sample", "1/3"), ("--weights", "beauty=1"),
     ("--weights", "space"), ("--codecs", "lzma"), ("--sample", "1/4", "--trace", "/dev/null")],
)  # fmt: skip
def test_tune_wrong_arguments(folder: Path, arguments: tuple[str, ...]) -> None:
    if arguments[-1] == "/dev/null":
        dataplane("tune", folder / "a.raw", *arguments)  # an empty trace asks for nothing
    else:
        assert dataplane("tune", folder / "a.raw", *arguments, check=2).stdout == ""


def test_names_that_are_not_there(folder: Path) -> None:
    assert "nothing matches" in one_line(dataplane("tune", folder / "*.vmdk", check=2))
    assert "name one of its images" in one_line(dataplane("tune", folder / "store", check=2))
    assert "no image" in one_line(dataplane("tune", folder / "store", "zebra", check=1))
    assert "not 2" in one_line(dataplane("map", folder / "store", "*", check=2))


def test_interrupt_keeps_and_marks_what_was_read(tmp_path: Path) -> None:
    """A device that never ends in time: the interrupt comes while it is read, and a marked result comes out."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(disk_bytes(2 * MIB, 1))
    work = [sys.executable, "-c", INTERRUPTED, str(disk)]
    done = subprocess.run(work, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    found = json.loads(done.stdout)
    assert not found["complete"]
    assert [one["complete"] for one in found["sources"]] == [True, False]
    assert found["sizes"][0]["chunks"] > 0


INTERRUPTED = f"""
import os, sys
from dataplane.cli.main import main
from dataplane.analysis import tuning
read = tuning.Tuner.read
def interrupt(self, *rest):
    if len(self._read) == 1:
        os.kill(os.getpid(), {int(signal.SIGINT)})
    return read(self, *rest)
tuning.Tuner.read = interrupt
sys.exit(main(["tune", sys.argv[1], sys.argv[1], "--json", "--chunk-sizes", "64K", "--codecs", "none"]))
"""


def test_measure_sample(folder: Path) -> None:
    exact = json.loads(dataplane("measure", folder / "*.raw", "--json").stdout)
    found = json.loads(dataplane("measure", folder / "*.raw", "--sample", "50%", "--json").stdout)
    for one, other in zip([*exact["sources"], exact["total"]], [*found["sources"], found["total"]], strict=True):
        assert one["distinct_chunks"] == other["distinct_chunks"]
        assert other["storage_size_low"] <= other["storage_size"] <= other["storage_size_high"]
        assert abs(other["storage_size"] / one["storage_size"] - 1) < 0.5
    assert "95 %" in dataplane("measure", folder / "a.raw", "--sample", "20%").stdout
    stored = json.loads(dataplane("measure", folder / "store", "a", "--json").stdout)
    assert stored["storage_size"] == exact["sources"][0]["storage_size"]


def test_map(folder: Path) -> None:
    found = json.loads(
        dataplane("map", folder / "b.raw", "--against", folder / "store", "a", "--cells", 64, "--json").stdout
    )
    assert sum(found["totals"].values()) == found["virtual_size"] == 6 * MIB
    assert {cell["shared_with"] for cell in found["cells"][:30]} >= {"a"}
    assert not any(cell["shared"] for cell in found["cells"][40:-1] if cell["shared_with"] not in ("a", None))
    strip = dataplane("map", folder / "b.raw", "--cells", 64).stdout.splitlines()[0]
    assert re.fullmatch(r" *0 B [.0#=+]{48,64}", strip)  # 96 chunks, two a mark


def test_diff_and_matrix(folder: Path) -> None:
    found = json.loads(dataplane("diff", folder / "store", "a", "b", "--json").stdout)
    assert found["ranges"][0][0] >= 3 * MIB
    assert found["changed_size"] == sum(length for _, length in found["ranges"])
    assert dataplane("diff", folder / "store", "a", "a").stdout.startswith("changed_size  0 B")
    matrix = json.loads(dataplane("stat", folder / "store", "--matrix", "--json").stdout)
    sizes = [json.loads(dataplane("stat", folder / "store", name, "--json").stdout) for name in "ab"]
    assert matrix["images"] == ["a", "b"]
    assert [matrix["shared_size"][n][n] for n in (0, 1)] == [one["storage_size"] for one in sizes]
    assert matrix["shared_size"][0][1] == sizes[0]["shared_size"] == sizes[1]["shared_size"]
    assert "100%" in dataplane("stat", folder / "store", "--matrix").stdout
    assert "NAME" in one_line(dataplane("stat", folder / "store", "a", "--matrix", check=2))


# ------------------------------------------------------------------------------------------------- the report
def browser() -> str:
    found = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if found is None:  # large, and for one page: not among the packages that make setup installs
        pytest.skip("no Chromium here: apt-get install chromium-headless-shell")
    return found


def rendered(page: Path, profile: Path) -> str:
    """Return the document as it is after its script ran."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=5000",
    ]
    done = subprocess.run(
        [browser(), *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_report_shows_everything_in_a_browser(folder: Path, tmp_path: Path) -> None:
    hostile = write_sparse(folder / "</script><img src=x onerror=alert(1)>.raw".replace("/", "_"), disk_bytes(MIB, 4))
    page = tmp_path / "report.html"
    trace = tmp_path / "trace"
    trace.write_text("0,4096\n1048576,65536\n")
    found = tune(folder / "a.raw", folder / "b.raw", hostile, "--cdc", "--trace", trace, "--report", page)
    text = page.read_text()
    assert len(text) < MIB // 3
    assert not re.search(
        r"(src|href)\s*=|https?://(?!www\.w3\.org/2000/svg)|url\(|@import|fetch\(",
        text.split('type="application/json"')[0],
    )
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert embedded
    assert json.loads(embedded[1]) == found
    dom = rendered(page, tmp_path / "profile")
    assert 'data-ready="yes"' in dom, "the script did not run to its end"
    chosen = found["verdict"]["recommended"]
    assert f"dataplane init STORE --chunk-size {chosen['chunk_size']} --codec {chosen['codec']}" in dom
    content = found["content_defined"]
    assert len(re.findall(r"<tr class=", dom)) == len(found["profiles"]) + len(content["profiles"])
    sentence = re.search(r'<p id="content">(.*?)</p>', dom)
    assert sentence
    assert ("would pay" in sentence[1]) == content["verdict"]["pays"]
    assert ">~4K none<" in dom
    assert dom.count('class="map"') == 3
    assert ">trace, cached</th>" in dom
    row = re.search(r"<td>~1M none</td>.*?</tr>", dom)
    assert row
    read = next(one["trace"] for one in content["sizes"] if one["chunk_size"] == MIB)
    assert row[0].endswith(f"<td>{read['amplification']:.1f}×</td><td>{read['amplification_cached']:.1f}×</td></tr>")
    assert len(re.findall('type="range"', dom)) == 4
    assert html.escape(hostile.name, quote=False) in dom
    assert "onerror=alert(1)>" not in dom.split("<body>")[1].replace(html.escape(hostile.name), "").split("<script")[0]
    for chart in ("tradeoff", "bars", "references", "lengths"):
        inside = dom.split(f'id="{chart}"')[1].split("</section>")[0]
        assert 'role="img"' in inside
        assert "<title>" in inside
    assert "NaN" not in dom.split("<script")[0]
    assert "undefined" not in dom.split("<script")[0]


def test_report_of_a_sampled_run_and_an_empty_disk(tmp_path: Path) -> None:
    disk = write_sparse(tmp_path / "empty.raw", bytes(MIB))
    for extra in ((), ("--sample", "1/4")):
        page = tmp_path / "report.html"
        tune(disk, "--report", page, *extra)
        dom = rendered(page, tmp_path / "profile")
        assert 'data-ready="yes"' in dom
        assert "NaN" not in dom.split("<script")[0]


def test_report_of_twenty_large_images_is_small(tmp_path: Path) -> None:
    """At most 1 MB, with maps of disks that have something everywhere, so that all numbers are long."""
    paths = []
    for number in range(20):
        path = tmp_path / f"a-name-that-is-rather-long-{number:02}.raw"
        with path.open("wb") as file:
            for place in range(128):
                file.seek(place * 300 * MIB + number * 7 * KIB)
                file.write(disk_bytes(40 * KIB, place * 20 + number % 3))
        paths.append(path)
    found = tune(*paths, "--cdc", "--codecs", "none,zstd:1,zstd:3", "--report", tmp_path / "report.html")
    assert len(found["maps"]) == 20
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_progress_of_each_source_as_json_lines(folder: Path) -> None:
    done = dataplane("tune", folder / "a.raw", folder / "b.raw", "--chunk-sizes", "64K", "--codecs", "none",
                     "--progress", "json")  # fmt: skip
    ends = [line for line in map(json.loads, done.stderr.splitlines()) if line["type"] == "summary"]
    assert all(line["finished"] and line["succeeded"] for line in ends)
    assert [line["position_bytes"] for line in ends] == [6 * MIB, 6 * MIB, 1]  # the last counts chunk sizes


def test_report_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    done = dataplane("tune", folder / "a.raw", "--chunk-sizes", "64K", "--report", tmp_path / "no" / "r.html",
                     "--progress", "none", check=1)  # fmt: skip
    assert "cannot be written" in one_line(done)
