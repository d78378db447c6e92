package chart

// CSS is the look of every picture of this package. A page includes it once. The
// dark form is for screens only: paper is white.
const CSS = `
:root{--c-ink:#1b1f24;--c-muted:#545d68;--c-grid:#e1e5ea;--c-axis:#8b949e;--c-paper:#ffffff;
--c-1:#0067a8;--c-2:#b85400;--c-3:#8a3f80;--c-4:#00795a;--c-5:#8f6a00;--c-6:#5d6671;
--c-ok:#2a75ab;--c-bad:#c4420a;--c-warn:#f0c04a;--c-band:#e69f00;--c-bandtxt:#5c3d00;--c-on:#ffffff;--c-onwarn:#2b2100}
@media screen and (prefers-color-scheme:dark){
:root{--c-ink:#e6e9ee;--c-muted:#a5afba;--c-grid:#2b323b;--c-axis:#66707c;--c-paper:#161b22;
--c-1:#58b4f0;--c-2:#f0a04b;--c-3:#d796cc;--c-4:#3fc79a;--c-5:#e3c44f;--c-6:#a5afba;
--c-ok:#3d8fcb;--c-bad:#e8703a;--c-warn:#d9aa3a;--c-band:#e69f00;--c-bandtxt:#ffe2ae;--c-on:#0b0e12;--c-onwarn:#0b0e12}}
.chart{display:block;width:100%;height:auto;font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
.chart text{font-size:12px;fill:var(--c-muted)}
.chart .c-key,.chart .c-lane{fill:var(--c-ink)}
.chart .c-phase{font-size:11px;letter-spacing:.02em}
.chart .c-bandtxt{font-size:11px;fill:var(--c-bandtxt)}
.chart .c-limittxt{font-size:11px;fill:var(--c-ink);paint-order:stroke;stroke:var(--c-paper);stroke-width:3px;stroke-linejoin:round}
.chart .c-empty{font-size:13px;font-style:italic}
.chart [class^=c-on-]{font-size:11px;font-weight:600;fill:var(--c-on)}
.chart .c-on-warn{fill:var(--c-onwarn)}
.chart .c-lane{paint-order:stroke;stroke:var(--c-paper);stroke-width:3px;stroke-linejoin:round}
.c-area.f-ok{fill-opacity:.62}
.c-grid{stroke:var(--c-grid);stroke-width:1}
.c-axis{stroke:var(--c-axis);stroke-width:1}
.c-border{stroke:var(--c-axis);stroke-width:1;stroke-dasharray:1 3}
.c-limit{stroke:var(--c-ink);stroke-width:1.4;stroke-dasharray:7 4}
.c-target{stroke:var(--c-ink);stroke-width:2}
.c-band{fill:var(--c-band);opacity:.1}
.c-bandbar{fill:var(--c-band);opacity:.38}
.c-hatch{stroke:var(--c-paper);stroke-width:3;opacity:.55}
.c-hits rect{fill:var(--c-ink);opacity:0}
.c-hits rect:hover,.c-hits rect.c-at{opacity:.09}
.l-1,.l-2,.l-3,.l-4,.l-5,.l-6,.l-ok,.l-bad,.l-warn{fill:none;stroke-linejoin:round}
.l-1{stroke:var(--c-1)}.l-2{stroke:var(--c-2)}.l-3{stroke:var(--c-3)}.l-4{stroke:var(--c-4)}.l-5{stroke:var(--c-5)}.l-6{stroke:var(--c-6)}
.l-ok{stroke:var(--c-ok)}.l-bad{stroke:var(--c-bad)}.l-warn{stroke:var(--c-5)}
.f-1{fill:var(--c-1)}.f-2{fill:var(--c-2)}.f-3{fill:var(--c-3)}.f-4{fill:var(--c-4)}.f-5{fill:var(--c-5)}.f-6{fill:var(--c-6)}
.f-ok{fill:var(--c-ok)}.f-bad{fill:var(--c-bad)}.f-warn{fill:var(--c-warn)}
`
