// The form of a recipe: settings that only some choices use are shown with those choices.
// sent in any case; what the recipe does not use, its program ignores.

const form = document.querySelector("form.run-form");
const parts = [...form.querySelectorAll("[data-when]")].map((part) => ({
  part,
  when: Object.entries(JSON.parse(part.dataset.when)),
}));

function chosen(name) {
  const field = form.elements.namedItem(name);
  return field.type === "checkbox" ? field.checked : field.value;
}

function show() {
  for (const { part, when } of parts) {
    const used = when.every(([name, values]) => values.includes(chosen(name)));
    part.hidden = !used && !part.matches(".wrong, :has(.wrong)");
  }
}

form.classList.add("choosing");
form.addEventListener("change", show);
window.addEventListener("pageshow", show); // the browser fills in what was chosen before
show();

// A value that keeps the form from being sent must be seen, wherever it is folded away.
form.addEventListener(
  "invalid",
  ({ target }) => {
    for (let up = target.parentElement; up !== form; up = up.parentElement) {
      up.hidden = false;
      if (up.matches("details")) up.open = true;
    }
  },
  true,
);
