// A judging form changed by keys and clicks: the verdict is two radio buttons, each unit
// and each reason a check box. This module only ticks them; the page sends the form.

export class PairForm {
  constructor(form) {
    this.form = form;
    this.current = -1;
    this.boxes = [...form.querySelectorAll('input[name="units"]')];
    this.reasons = [...form.querySelectorAll('input[name="reasons"]')];
    this.showMarks();
  }

  get verdict() {
    return this.form.querySelector('input[name="verdict"]:checked')?.value ?? "";
  }

  /** Whether the verdict is "not consistent" without a unit or reason. */
  get lacksReason() {
    return this.verdict === "0" && ![...this.boxes, ...this.reasons].some((box) => box.checked);
  }

  choose(verdict) {
    this.form.querySelector(`input[name="verdict"][value="${verdict}"]`).checked = true;
  }

  chooseNot(units = null) {
    this.choose("0");
    for (const box of this.boxes) {
      box.checked = units ? units.includes(box.value) : box.hasAttribute("data-proposed");
    }
    for (const field of this.reasons) {
      delete field.dataset.byHand;
      field.checked = false;
    }
    for (const box of this.boxes) if (box.checked) this.followReason(box);
    this.showMarks();
    this.goToFirst();
  }

  chooseConsistent() {
    this.choose("1");
    this.leaveUnits();
    this.showMarks();
  }

  takeBack() {
    for (const radio of this.form.querySelectorAll('input[name="verdict"]')) radio.checked = false;
    this.leaveUnits();
    this.showMarks();
  }

  /** Toggle a unit. Before a decision this means "not consistent, because of this unit". */
  toggle(key) {
    if (this.verdict !== "0") {
      this.chooseNot([key]);
      return;
    }
    const box = this.boxes.find((one) => one.value === key);
    if (!box) return;
    box.checked = !box.checked;
    this.onUnit(box);
  }

  toggleCurrent() {
    const box = this.boxes[this.current] ?? this.boxes.find((one) => one.hasAttribute("data-proposed"));
    if (box) this.toggle(box.value);
  }

  toggleReason(index) {
    const field = this.reasons[index];
    if (!field) return;
    field.checked = !field.checked;
    field.dataset.byHand = "1";
  }

  onUnit(box) {
    this.followReason(box);
    this.moveTo(this.boxes.indexOf(box), { quietly: true });
    this.showMarks();
  }

  onChange({ target }) {
    if (target.name === "units") {
      if (this.verdict !== "0") this.chooseNot([target.value]);
      else this.onUnit(target);
    } else if (target.name === "reasons") target.dataset.byHand = "1";
    else if (target.name === "verdict" && target.value === "0") this.chooseNot();
    else if (target.name === "verdict") this.chooseConsistent();
  }

  followReason(box) {
    const reasonOf = (one) => one.dataset.reason || reasonOfKey(one.value);
    const reason = reasonOf(box);
    const field = this.reasons.find((one) => one.value === reason);
    if (!field || field.dataset.byHand) return;
    field.checked = this.boxes.some((one) => one.checked && reasonOf(one) === reason);
  }

  showMarks() {
    const chosen = this.verdict === "0";
    this.form.classList.toggle("no-chosen", chosen);
    const marked = new Set(chosen ? this.boxes.filter((box) => box.checked).map((box) => box.value) : []);
    for (const element of this.form.querySelectorAll("[data-unit]")) {
      element.classList.toggle("marked", marked.has(element.dataset.unit));
    }
  }

  step(by) {
    this.moveTo(this.current < 0 ? 0 : this.current + by);
  }

  /** Go to the first unit that is ticked; return whether there is one. */
  goToFirst(options) {
    const first = this.boxes.findIndex((box) => box.checked);
    if (first >= 0) this.moveTo(first, options);
    return first >= 0;
  }

  moveTo(index, { quietly = false, scrolls = true } = {}) {
    this.leaveUnits();
    this.current = Math.max(0, Math.min(index, this.boxes.length - 1));
    const box = this.boxes[this.current];
    if (!box) return;
    const elements = [...this.form.querySelectorAll("[data-unit]")].filter(
      (one) => one.dataset.unit === box.value,
    );
    for (const element of elements) element.classList.add("current");
    if (quietly) return;
    if (scrolls) elements.at(-1)?.scrollIntoView({ block: "nearest" });
    box.focus({ preventScroll: true });
  }

  leaveUnits() {
    if (this.boxes.includes(document.activeElement)) document.activeElement.blur();
    for (const element of this.form.querySelectorAll(".current")) element.classList.remove("current");
  }
}

/** The reason for a marked unit when the alignment proposes none. */
function reasonOfKey(key) {
  if (key === "result") return "use of result";
  if (key.endsWith("/name")) return "action name";
  if (key.includes("/parameters/")) return "parameter";
  return "content";
}
