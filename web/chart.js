// A small chart over the last two minutes.
import { html, useEffect, useLayoutEffect, useRef, useState } from './html.js';
import uPlot from './vendor/uplot.js';

// The value of a CSS variable as a canvas understands it.
function color(name) {
  document.body.style.setProperty('accent-color', `var(${name})`);
  const value = getComputedStyle(document.body).accentColor;
  document.body.style.removeProperty('accent-color');
  return value;
}

function options(series, span, onHover) {
  const axis = {
    stroke: () => color('--faint'),
    font: '11px system-ui, sans-serif',
    ticks: { show: false },
    grid: { stroke: () => color('--line'), width: 1 },
  };
  return {
    width: 300,
    height: 96,
    padding: [6, 2, 6, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { time: false, range: (chart, min, max) => [max - span, max] },
      y: { range: (chart, min, max) => [0, Math.max(4, max * 1.15)] },
    },
    axes: [
      { ...axis, show: false },
      { ...axis, size: 34, gap: 4, space: 28, values: (chart, ticks) => ticks.map((tick) => (tick >= 10000 ? `${tick / 1000}k` : tick)) },
    ],
    series: [{}, ...series.map(({ tone, stepped }, index) => ({
      stroke: () => color(tone),
      fill: index > 0 ? undefined : () => color(tone).replace(/^rgb\((.*)\)$/, 'rgba($1, 0.12)'),
      width: 1.5,
      points: { show: false },
      paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    }))],
    hooks: { setCursor: [(chart) => onHover(chart.cursor.idx ?? null)] },
  };
}

// `times` in seconds, ascending; `series`: {label, values, tone (a CSS variable), stepped}; `format(value)` of a label.
export function Chart({ title, times, series, span, theme, format }) {
  const place = useRef(null);
  const chart = useRef(null);
  const [hover, setHover] = useState(null);
  useEffect(() => {
    chart.current = new uPlot(options(series, span, setHover), [[], ...series.map(() => [])], place.current);
    const sizes = new ResizeObserver(([entry]) => {
      chart.current.setSize({ width: Math.max(80, Math.floor(entry.contentRect.width)), height: 96 });
    });
    sizes.observe(place.current);
    return () => {
      sizes.disconnect();
      chart.current.destroy();
    };
  }, []);
  useLayoutEffect(() => { chart.current?.setData([times, ...series.map(({ values }) => values)]); }, [times]);
  useEffect(() => { chart.current?.redraw(); }, [theme]);
  const at = hover !== null && hover < times.length ? hover : times.length - 1;
  return html`<section class="chart" aria-label=${title}>
    <header>${series.map(({ label, values, tone }) => html`<div class="figure">
      <b>${at >= 0 ? format(values[at]) : '–'}</b>
      <span><i data-tone=${tone} />${label}</span></div>`)}
      ${hover !== null && at >= 0 && html`<time>${Math.round(times.at(-1) - times[at])} s ago</time>`}
    </header>
    <div ref=${place} aria-hidden="true" />
  </section>`;
}
