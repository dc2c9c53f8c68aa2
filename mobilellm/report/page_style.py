"""Style sheet and script of the page; both are part of it, so that it loads no other files."""

from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2126; --muted: #66707c;
  --grid: #e3e6ea; --panel: #f5f7f9; --accent: #31688e; --good: #1a7f4b; --bad: #b3392c;
  --good-back: #e4f4ea; --bad-back: #fbe9e6; --warn: #8a5a00; --warn-back: #fdf4dc; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e9ed;
  --muted: #98a2ae; --grid: #2c3239; --panel: #1d2227; --accent: #6fb3d9; --good: #6fd39b;
  --bad: #f09a8e; --good-back: #17362a; --bad-back: #40221f; --warn: #f0c873;
  --warn-back: #3a2f14; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.4rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 0 0 .2rem; }
p { margin: .4rem 0; max-width: 76ch; }
.question { color: var(--muted); font-size: 1.05rem; }
.verdict { border-left: 5px solid var(--accent); background: var(--panel);
  padding: .9rem 1.2rem 1rem; margin: 1.3rem 0; border-radius: 0 6px 6px 0; }
.verdict p:first-child { font-size: 1.22rem; font-weight: 600; line-height: 1.4; }
.warnings { border-left: 5px solid var(--warn); background: var(--warn-back);
  padding: .7rem 1.2rem .8rem; border-radius: 0 6px 6px 0; margin: 1.2rem 0; }
.warnings h2 { margin: 0 0 .3rem; font-size: 1.02rem; color: var(--warn); }
.warnings ul, .notes ul { margin: .2rem 0; padding-left: 1.2rem; }
.warnings b, .notes b { font-weight: 600; }
.notes { color: var(--muted); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
th, td { padding: .38rem .5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { vertical-align: bottom; color: var(--muted); font-weight: 600; }
tbody th { font-weight: 600; }
.sortable thead th { cursor: pointer; user-select: none; }
.sortable thead th:hover { color: var(--ink); }
.sortable thead th[aria-sort=ascending]::after { content: " ▲"; font-size: .7em; }
.sortable thead th[aria-sort=descending]::after { content: " ▼"; font-size: .7em; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 50%;
  margin-right: .5em; vertical-align: -.06em; border: 2.5px solid; }
.matrix td, .matrix thead th { text-align: center; }
.matrix thead th { white-space: normal; max-width: 8rem; }
.matrix tbody th { white-space: normal; max-width: 10rem; }
.sortable tbody th { white-space: normal; min-width: 8.5rem; }
.matrix td span { display: block; font-size: .8rem; color: var(--muted); }
.matrix .better { background: var(--good-back); color: var(--good); font-weight: 600; }
.matrix .worse { background: var(--bad-back); color: var(--bad); font-weight: 600; }
.matrix .equal { background: var(--panel); color: var(--accent); font-weight: 600; }
.matrix .better span, .matrix .worse span, .matrix .equal span { color: inherit; font-weight: 400; }
.matrix .same, .matrix .self { color: var(--muted); }
figure { margin: 2.2rem 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; margin: .3rem 0; }
figure.narrow svg { max-width: 800px; }
figcaption { color: var(--muted); font-size: .92rem; max-width: 84ch; }
.small { color: var(--muted); font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .92rem;
  margin: .6rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere;
  font: .88em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
a { color: var(--accent); }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { main { max-width: none; padding: 0; } body { font-size: 11pt; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .3rem; } a { color: inherit; }
  .verdict, .warnings, table { break-inside: avoid; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => Number(row.children[column].dataset.value);
      const rows = [...table.tBodies[0].rows].sort((a, b) => key(a) - key(b) || 0);
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
"""


def style_text(light: Sequence[str], dark: Sequence[str]) -> str:
    """Return the style sheet with the colours of the configurations, for both themes."""

    def variables(colours: Sequence[str]) -> str:
        return " ".join(f"--shape-{index}: {colour};" for index, colour in enumerate(colours))

    return STYLE.replace("LIGHT", variables(light)).replace("DARK", variables(dark))
