// The words of the page's language. Its catalogue (config/web/words.py) sets them up before any
// module runs; English pages have none and use the texts in the code.

const catalogue = () => globalThis.django ?? {};

export const gettext = (text) => catalogue().gettext?.(text) ?? text;

export const ngettext = (one, many, count) =>
  catalogue().ngettext?.(one, many, count) ?? (count === 1 ? one : many);

/** Fill a text's named placeholders: fill("%(n)s left", {n: 3}). */
export const fill = (text, values) =>
  text.replace(/%\((\w+)\)s/g, (place, name) => (name in values ? String(values[name]) : place));
