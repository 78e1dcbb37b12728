"""The style sheet of the report page: light and dark, phone to wide screen, and paper."""

from twodal_jax.reporting import charts

PAGE_CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2127; --muted: #5d6570; --rule: #e4e1d9;
  --accent: #9a3412;
  --s0: #0072b2; --s1: #d55e00; --s2: #00875f; --s3: #a6487f; --s4: #8a6d00; --s5: #3f3f46;
  --true: #ffcd28; --predicted: #28beff;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, Charter, Georgia, "DejaVu Serif",
    serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e9e6df; --muted: #a2a8b0; --rule: #30343a;
    --accent: #f0a878;
    --s0: #56b4e9; --s1: #f08a4b; --s2: #2fc79a; --s3: #dc94bd; --s4: #dcc65a; --s5: #c4c4cc;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 var(--sans);
  -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 28px 80px; }
h1, h2, .headline b { font-family: var(--serif); font-weight: 600; }
h1 { font-size: clamp(1.8rem, 4.5vw, 2.6rem); line-height: 1.12; margin: 0; letter-spacing: -.01em;
  overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.45rem; line-height: 1.2; margin: 0 0 .35rem; }
h3 { font-size: .82rem; font-weight: 600; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: 0 0 1rem; max-width: 68ch; text-wrap: pretty; }
.kicker { color: var(--accent); font-size: .78rem; font-weight: 600; letter-spacing: .09em;
  text-transform: uppercase; margin: 0 0 .6rem; }
.lede { font: 1.15rem/1.5 var(--serif); color: var(--muted); margin: .9rem 0 0; max-width: 74ch; }
.note { color: var(--muted); font-size: .87rem; }
section { margin-top: 56px; padding-top: 22px; border-top: 1px solid var(--rule); }
.headlines { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr));
  gap: 20px 32px;  margin-top: 34px; }
.headline b { display: block; font-size: 2rem; line-height: 1.1;
  font-variant-numeric: lining-nums; }
.headline span { display: block; color: var(--muted); font-size: .87rem; line-height: 1.35; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: right; white-space: nowrap; font-weight: 400; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--muted); font-size: .82rem; border-bottom: 1px solid var(--ink);
  vertical-align: bottom; }
tbody tr + tr:not(.group) { border-top: 1px solid var(--rule); }
tr.group th { font-weight: 600; padding-top: 20px; text-align: left; }
tbody + tbody { border-top: 0; }
td.best { font-weight: 700; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
  gap: 26px 40px; margin-top: 26px; }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr));
  gap: 26px 28px; margin-top: 18px; }
figure { margin: 0; min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; color: var(--muted); font-size: .82rem;
  margin-bottom: 6px; }
.legend span { display: inline-flex; align-items: center; gap: 7px; }
.swatch { width: 12px; height: 12px; border-radius: 50%; border: 1px solid #0006; }
.face { display: grid; grid-template-columns: 150px 1fr; gap: 8px 24px; align-items: center;
  padding: 16px 0; border-bottom: 1px solid var(--rule); }
.face:last-child { border-bottom: 0; }
.face .who { overflow-wrap: anywhere; font-size: .87rem; color: var(--muted); }
.face .who b { display: block; font: 600 1.5rem/1.2 var(--serif); color: var(--ink); }
.face .who em { font-style: normal; color: var(--accent); font-weight: 600; font-size: .78rem;
  letter-spacing: .05em; text-transform: uppercase; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 10px;
  max-width: 860px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 3px;
  background: var(--rule); }
.pictures figcaption { color: var(--muted); font-size: .78rem; margin-top: 3px; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 6px 28px;
  margin: 16px 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
ul { padding-left: 1.2em; margin: 8px 0; } li { overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--muted); font-size: .82rem; }
@media (max-width: 640px) {
  main { padding: 28px 16px 56px; }
  .face { grid-template-columns: 1fr; }
  .pictures { grid-template-columns: 1fr 1fr; }
}
@media print { body { background: none; } section, .face { break-inside: avoid; } }
"""

CSS = PAGE_CSS + charts.CSS
