"""The style sheet of a page, light and dark, wide and narrow."""

from __future__ import annotations

from tasks.benchmark.report.palette import DARK, LIGHT, css_variables

STYLE = f"""
:root {{ color-scheme: light dark; {css_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}}
main {{ max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }}
h1 {{
  font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.5rem; text-wrap: balance;
}}
h2 {{ font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 0.75rem; }}
h3 {{ font-size: 1.05rem; line-height: 1.3; margin: 2.25rem 0 0.25rem; }}
h2, h3 {{ scroll-margin-top: 1rem; overflow-wrap: anywhere; }}
p {{ max-width: 46rem; margin: 0.5rem 0; }}
a {{ color: inherit; text-decoration-color: var(--muted); text-underline-offset: 0.2em; }}
.lead {{ font-size: 1.1rem; color: var(--muted); }}
.bad {{ color: var(--bad); }}
nav {{ display: flex; flex-wrap: wrap; gap: 0.35rem 1rem; margin: 1rem 0; font-size: 0.9rem; }}
nav a {{ color: var(--muted); }}
.tiles {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0.75rem;
  margin: 1.5rem 0 1rem;
}}
.tiles div {{
  background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 0.9rem 1rem;
}}
.tiles strong {{
  display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums;
  letter-spacing: -0.02em;
}}
.tiles span {{ display: block; margin-top: 0.2rem; }}
.tiles span, figcaption {{ color: var(--muted); font-size: 0.86rem; line-height: 1.4; }}
.gallery {{
  display: grid; gap: 1rem; margin: 0.75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
}}
.gallery.small {{
  gap: 0.6rem; grid-template-columns: repeat(auto-fill, minmax(min(45%, 13.5rem), 1fr));
}}
figure {{
  margin: 0; background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 0.9rem;
}}
figure svg {{ display: block; width: 100%; height: auto; max-width: 33rem; margin: 0 auto; }}
figure svg text {{ fill: var(--ink); }}
figure svg .faint {{ fill: var(--muted); }}
figcaption {{ margin-top: 0.5rem; }}
.small figure {{
  padding: 0.5rem; min-width: 0; display: flex; flex-direction: column; justify-content: space-between;
}}
.small figcaption {{ margin: 0 0 0.3rem; font-size: 0.8rem; overflow-wrap: anywhere; }}
.small figcaption b {{ color: var(--ink); display: block; }}
.scroll {{
  overflow-x: auto; background: var(--surface); border: 1px solid var(--grid); border-radius: 10px;
  margin: 0.75rem 0;
}}
table {{
  border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.86rem;
  font-variant-numeric: tabular-nums;
}}
th, td {{ padding: 0.45rem 0.65rem; text-align: left; white-space: nowrap; vertical-align: baseline; }}
thead th {{
  color: var(--muted); font-weight: 500; line-height: 1.3; white-space: normal; vertical-align: bottom;
  min-width: 5.7rem;
}}
tbody th {{ font-weight: 600; }}
table.sortable tbody th, table.sortable thead th:first-child {{
  position: sticky; left: 0; background: var(--surface);
}}
table.wrap td {{ white-space: normal; overflow-wrap: break-word; min-width: min(8.5rem, 40vw); }}
tbody tr.group > *, table.sortable tbody tr > * {{ border-top: 1px solid var(--grid); }}
tr.strong td {{ font-weight: 600; }}
td small {{ display: block; color: var(--muted); font-size: 0.9em; font-weight: 400; }}
th button {{
  all: unset; cursor: pointer; display: inline; color: inherit; font: inherit;
}}
th button:focus-visible, summary:focus-visible, a:focus-visible {{
  outline: 2px solid var(--series-0); outline-offset: 3px; border-radius: 3px;
}}
th button::after {{ content: "\\2195"; margin-left: 0.3em; opacity: 0.45; }}
th[aria-sort="ascending"] button::after {{ content: "\\2191"; opacity: 1; }}
th[aria-sort="descending"] button::after {{ content: "\\2193"; opacity: 1; }}
th[aria-sort] {{ color: var(--ink); }}
.swatch {{ width: 26px; height: 8px; margin-right: 0.5rem; vertical-align: middle; fill: none; }}
details {{ margin: 0.75rem 0; }}
summary {{ cursor: pointer; color: var(--muted); padding: 0.25rem 0; }}
dl {{ max-width: 52rem; margin: 0.5rem 0; }}
dt {{ font-weight: 600; margin-top: 0.8rem; }}
dd {{ margin: 0.1rem 0 0; color: var(--muted); }}
pre {{
  background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 0.8rem 1rem;
  overflow-x: auto; font: 0.88rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace;
}}
@media (max-width: 40rem) {{
  main {{ padding: 1.5rem 0.9rem 3rem; }}
  h1 {{ font-size: 1.5rem; }}
  .tiles {{ grid-template-columns: 1fr 1fr; gap: 0.6rem; }}
  .tiles strong {{ font-size: 1.35rem; }}
  figure {{ padding: 0.5rem; }}
  table.sortable tbody th {{ white-space: normal; min-width: 7rem; max-width: 9.5rem; }}
  table.sortable .swatch {{ display: block; margin: 0 0 0.15rem; }}
}}
@media print {{ details > * {{ display: block; }} th button::after {{ content: ""; }} }}
"""
