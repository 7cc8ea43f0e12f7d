"""Puts the tables of result files into README.md and the pages of docs/.

They stand between `<!-- KIND: FILE -->` and `<!-- end -->`; KIND is report, compare, recipes, recovery,
asking, decoding, full size, gptq, gguf or round trip.

    python benchmarks/readme.py                            # after a result file has changed
    python benchmarks/readme.py out/*/report.json          # take these runs on `tiny`, of recipes by folder

results/runs holds a report of every recipe; the README's first screen, its table of recipes and the
comparison of runs in docs/measuring.md are made of them.

Tests compare the pages and the headers of the recipes, so that they never show numbers that no file holds.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from result_file import write_result

from audiolm_compress import Report, compare

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = RESULTS / "runs"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(
    r"(<!-- (?P<kind>report|compare|recipes|recovery|asking|decoding|full size|gptq|gguf|round trip): "
    r"(?P<file>\S+) -->\n)"
    r".*?(<!-- end -->)",
    re.DOTALL,
)
_COLUMNS = {
    "weights": "weight_bytes",
    "peak memory": "peak_memory_bytes",
    "TTFT, 10 s clip": "ttft_10s",
    "TTFT, 30 s clip": "ttft_30s",
    "TPOT": "tpot_10s",
}


_HEADLINES = {
    "weights": "weight_bytes",
    "peak memory": "peak_memory_bytes",
    "TTFT": "ttft_s",
    "TPOT": "tpot_s",
}
_METRICS = ("wer", "cider_d")


def filled(text: str) -> str:
    """``text`` with every block made anew from the report that it names."""

    def block(match: re.Match[str]) -> str:
        file = ROOT / match["file"]
        if match["kind"] == "recipes":
            return f"{match[1]}{recipes(measured(file))}\n{match[4]}"
        if match["kind"] in TABLES:
            content = json.loads(file.read_text(encoding="utf-8"))
            return f"{match[1]}{TABLES[match['kind']](content)}\n{match[4]}"
        if match["kind"] == "compare":
            table = compare(sorted(file.glob("*.json"))).table()
        else:
            table = Report.from_json(file.read_text(encoding="utf-8")).table()
        lines = "\n".join(line.rstrip() for line in table.strip("\n").splitlines())
        return f"{match[1]}```text\n{lines}\n```\n{match[4]}"

    return BLOCK.sub(block, text)


def full_size(result: dict[str, Any]) -> str:
    """A table of the arrangements of ``full_size.py``: the first in its units, the others as ratios to it."""
    rows = [["arrangement", *_COLUMNS]]
    first = result["arrangements"]["upstream"]
    for name, figures in result["arrangements"].items():
        cells = [
            f"{figures[key] / first[key]:.3f}x" if figures is not first else _in_units(key, first[key])
            for key in _COLUMNS.values()
        ]
        rows.append([name, *cells])
    return _table(rows)


def gptq(result: dict[str, Any]) -> str:
    """A table of ``gptq_rival.py``."""
    rows = [["bits, group size", "perplexity", "GPTQModel's", "seconds", "GPTQModel's"]]
    for name, sides in result["formats"].items():
        ours, theirs = sides["ours"], sides["gptqmodel"]
        figures = [ours["perplexity"], theirs["perplexity"], ours["seconds"], theirs["seconds"]]
        rows.append([name.replace(":", ", "), *(f"{figure:.1f}" for figure in figures)])
    return _table(rows)


def gguf(result: dict[str, Any]) -> str:
    """A table of ``gguf_llama_cpp.py``: every type of the first LLM, q4_0 after GPTQ, else float32."""
    rows = [["LLM", "type", "MB", "equal texts", "logits apart", "next tokens", "perplexity", "llama.cpp's"]]
    first = next(iter(result["models"]))
    for name, kinds in result["models"].items():
        for kind, one in kinds.items():
            if name != first and kind != ("q4_0" if "GPTQ" in name else "f32"):
                continue
            values = [f"{one['perplexity'][side]:.2f}" for side in ("ours", "llama.cpp")]
            shares = [f"{one['equal_texts']:.0%}", f"{one['logits']:.0e}", f"{one['next_tokens']:.1%}"]
            rows.append([name, kind, f"{one['bytes'] / 1e6:.2f}", *shares, *values])
    return _table(rows)


def round_trip(result: dict[str, Any]) -> str:
    """A table of ``gptqmodel_round_trip.py``."""
    rows = [["scheme", "logits apart, float32", "bfloat16", "perplexity", "GPTQModel's", "float32"]]
    for name, one in result["schemes"].items():
        values = [f"{one['perplexity'][side]:.2f}" for side in ("ours", "theirs", "float32")]
        rows.append([name, f"{one['float32']:.0e}", f"{one['bfloat16']:.3f}", *values])
    return _table(rows)


def measured(folder: Path = RUNS) -> dict[str, dict[str, Any]]:
    """The headlines of all recipes, by name."""
    files = sorted(folder.glob("*.json"))
    return {file.stem: summary(json.loads(file.read_text(encoding="utf-8"))) for file in files}


def recipes(results: dict[str, Any]) -> str:
    """A table of what each recipe gives on `tiny`."""
    rows = [["recipe", *_HEADLINES, "WER", "CIDEr-D"]]
    for name, entry in results.items():
        ratios = [f"{entry[key]:.2f}x" for key in _HEADLINES]
        rows.append([f"[{name}](recipes/{name}.yaml)", *ratios, *(_difference(entry[m]) for m in _METRICS)])
    return _table(rows)


def recovery(result: dict[str, Any]) -> str:
    """A table of ``recovery.py``."""
    rows = [["", "WER", "CIDEr-D"]]
    for name in ("baseline", "hurt", "healed"):
        rows.append([name, *(f"{result[name][metric]:.3f}" for metric in _METRICS)])
    rows.append(["won back", *(f"{result['won_back'][metric]:.0%}" for metric in _METRICS)])
    return _table(rows)


def asking(result: dict[str, Any]) -> str:
    """A table of ``asking.py``."""
    rows = [["", "WER", "CIDEr-D"]]
    for stage in result["stages"]:
        behind = "" if stage is result["stages"][0] else "after "
        name = f"{behind}{stage['stage']}"
        rows.append([name, *(f"{stage['test'][metric]:.3f}" for metric in _METRICS)])
    rows.append(["as it was trained", *(f"{result['own'][metric]:.3f}" for metric in _METRICS)])
    return _table(rows)


def decoding(result: dict[str, Any]) -> str:
    """A table of ``decoding.py``: metrics on clips that may decide, on those held out, and on the test."""
    rows = [["", "CIDEr-D, deciding", "held out", "test", "WER, deciding", "held out", "test"]]
    figures = result["figures"]
    groups = {key.partition(": ")[0] for key in figures}
    for name, when in (("greedy", "before"), ("as found", "after")):
        cells = [name]
        for metric in reversed(_METRICS):
            (group,) = (group for group in groups if f"{group}: {metric} search {when}" in figures)
            cells += [
                f"{figures[f'{group}: {metric} {clips} {when}']:.3f}" for clips in ("search", "held-out")
            ]
            cells.append(f"{result[when][metric]:.3f}")
        rows.append(cells)
    return _table(rows)


TABLES = {
    "recovery": recovery,
    "asking": asking,
    "decoding": decoding,
    "full size": full_size,
    "gptq": gptq,
    "round trip": round_trip,
    "gguf": gguf,
}


def expectation(entry: dict[str, Any]) -> str:
    """The same for the header of the recipe."""
    ratios = ", ".join(f"{key} {entry[key]:.2f}x" for key in _HEADLINES)
    return f"{ratios}, WER {_difference(entry['wer'])}, CIDEr-D {_difference(entry['cider_d'])}"


def expectation_at_real_size(file: str, name: str) -> str:
    """What a result file of ``full_size.py`` says of a recipe, for its header."""
    arrangements = json.loads((RESULTS / file).read_text(encoding="utf-8"))["arrangements"]
    ratios = {
        column: arrangements[name][key] / arrangements["upstream"][key]
        for column, key in (("weights", "weight_bytes"), ("TTFT", "ttft_10s"), ("TPOT", "tpot_10s"))
    }
    figures = ", ".join(f"{column} {ratio:.2f}x" for column, ratio in ratios.items())
    return f"with random weights: {figures} (benchmarks/results/{file})"


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The headline of a report: candidate to baseline."""
    before, after = report["baseline"], report["candidate"]
    ratios = {name: after[key] / before[key] for name, key in _HEADLINES.items()}
    kept = ("baseline", "candidate", "difference", "within_noise")
    metrics = {m: {key: report["differences"][m][key] for key in kept} for m in _METRICS}
    return ratios | metrics


def _difference(metric: dict[str, Any]) -> str:
    return f"{metric['difference']:+.3f} ({'within' if metric['within_noise'] else 'beyond'} noise)"


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _in_units(column: str, value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if column.endswith("bytes") else f"{value:.2f} s"


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the folders of the machine it was made on."""
    for side in (report["baseline"], report["candidate"], *report["further"].values()):
        for clip in side["clips"]:
            clip["path"] = clip["path"].rpartition("audiolm_compress/")[2]
    return report


def take(file: Path) -> None:
    """Take a report of a run on `tiny`; the name of its folder is the recipe's."""
    report, name = json.loads(file.read_text(encoding="utf-8")), file.parent.name
    if not (ROOT / "recipes" / f"{name}.yaml").is_file() or report["baseline"]["source"] != "tiny":
        raise SystemExit(f"{file} is no report of a recipe on `tiny` in the folder of its name")
    write_result(RUNS / f"{name}.json", portable(report))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        take(Path(argument))
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
