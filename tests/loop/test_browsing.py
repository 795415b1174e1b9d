"""The scripted browser reads forms as a real one would."""

from loop.browser import Page

PAGE = Page(
    200,
    "http://127.0.0.1/x/",
    """
    <form method="post" id="judge"><input type="hidden" name="slot" value="7">
    <input type="radio" name="verdict" value="0"><input type="radio" name="verdict" value="1" checked>
    <input type="checkbox" name="units" value="plan/1" checked>
    <input type="checkbox" name="units" value="answer">
    <select name="policy"><option value="3">a</option><option value="4" selected>b</option></select>
    <select name="base"><option value="9">a</option></select>
    <textarea name="comment">
a &amp; b</textarea><button name="go" value="1">Go</button><input disabled name="no"></form>
    <ul class="errorlist"><li>Seed must be at least 0.</li></ul>
    """,
)


def test_sends_what_a_browser_would_send_untouched() -> None:
    form = PAGE.form_with("slot", "verdict")
    assert form.method == "post"
    assert form.values == {
        "slot": ["7"],
        "verdict": ["1"],
        "units": ["plan/1"],
        "policy": ["4"],
        "base": ["9"],
        "comment": ["a & b"],
    }


def test_knows_what_a_field_offers() -> None:
    form = PAGE.form_with("slot")
    assert form.choices["units"] == ["plan/1", "answer"]
    assert form.choices["policy"] == ["3", "4"]


def test_reads_the_messages_of_error_lists() -> None:
    assert PAGE.errors() == ["Seed must be at least 0."]
