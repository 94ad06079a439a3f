import re
from pathlib import Path

import pytest

from course_utils import figures
from course_utils.precision import scaling
from course_utils.precision.formats import FP16, Format


def drawn(alt: str = "a line that rises") -> str:
    fig, ax = figures.subplots()
    ax.plot([0, 1], [0, 1], label="a")
    ax.set(xlabel="x", ylabel="y", title="t")
    ax.legend()
    return figures.show(fig, alt=alt).data


def test_figures_take_the_ink_of_the_page():
    svg = drawn()
    assert "currentColor" in svg
    assert not re.search(r"#(000000|ffffff)\b", svg)
    assert 'aria-label="a line that rises"' in svg
    assert "<text" in svg  # text stays text


def test_figures_are_the_same_in_every_run_and_share_no_ids():
    assert drawn() == drawn()
    ids = [set(re.findall(r'id="([mpC]\w{8,})"', drawn(alt))) for alt in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_figure_needs_alternative_text():
    with pytest.raises(ValueError, match="sentence"):
        figures.show(figures.subplots()[0], alt=" ")


def test_source_is_the_package_s_own_without_the_docstring():
    text = figures.source(FP16.decode).data
    assert text.startswith("def decode(")
    assert '"""' not in text
    assert '"""' in figures.source(FP16.decode, docstring=True).data
    assert "class Format" in figures.source(Format).data


def test_a_module_is_shown_whole():
    text = figures.source(scaling).data
    assert text == Path(scaling.__file__).read_text("utf-8").strip("\n")
    short = figures.source(scaling, docstring=False).data
    assert short.startswith(f'"""{scaling.__doc__}"""')
    assert short.count('"""') == 2 < text.count('"""')


def test_interactive_names_those_there_are():
    with pytest.raises(ValueError, match="float_bits"):
        figures.interactive("no_such", label="x")


def test_interactive_data_cannot_end_the_script():
    page = figures.interactive("float_bits", {"x": "</script><b>"}, label="bits").data
    assert page.count("</script>") == 1


def test_a_page_is_not_made_heavy():
    with pytest.raises(ValueError, match=r"figure 'float_bits' are 60,0\d\d bytes.*at most 60,000"):
        figures.interactive("float_bits", "x" * 60_000, label="bits")


def test_a_table_holds_every_answer_and_every_refusal():
    def compute(model: str, ranks: int) -> dict[str, object]:
        if model == "odd" and ranks == 2:
            raise ValueError("odd cannot be halved")
        return {"name": model, "shares": (ranks / 3, 4.0), "whole": 12_345_678, "fits": ranks < 2}

    table = figures.tabulate(compute, model=["even", "odd"], ranks=range(1, 3))
    assert table["arguments"] == {"model": ["even", "odd"], "ranks": [1, 2]}
    assert table["fields"] == ["name", "shares", "whole", "fits"]
    even, odd = table["entries"]
    assert even == [["even", [0.333333, 4], 12_345_678, True], ["even", [0.666667, 4], 12_345_678, False]]
    assert odd == [["odd", [0.333333, 4], 12_345_678, True], "odd cannot be halved"]
    assert isinstance(even[0][1][1], int)  # 4, not 4.0: shorter in the page


def test_table_is_the_same_in_every_run():
    def once():
        return figures.table([{"format": "FP16", "max": 65504.0}], caption="Limits", formats={"max": "{:.0f}"}).data

    assert once() == once()
    assert "65504" in once()
    assert "Limits" in once()


def test_what_figures_share_is_put_before_each_and_is_none_itself() -> None:
    with pytest.raises(ValueError, match=r"no interactive figure 'interactive'; there are: [a-z_, ]*data_parallel, "):
        figures.interactive("interactive", label="shared")
    page = figures.interactive("float_bits", {}, label="bits").data
    assert page.index("function element(") < page.index("function mount(")
