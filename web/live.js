// The live view of the engine: reads stats once a second and shows the last two minutes.
import { getJson } from './api.js';
import { Chart } from './chart.js';
import { html, useEffect, useState } from './html.js';

const SPAN_S = 120;
const PERIOD_MS = 1000;

const EMPTY = { times: [], generated: [], prompt: [], running: [], waiting: [], queries: [], hits: [] };

// Adds what happened between two readings of the counters, `time_s` apart. A server that started anew begins anew.
export function extend(history, before, now) {
  const seconds = before ? now.time_s - before.time_s : 0;
  if (seconds <= 0 || now.generation_tokens < before.generation_tokens || now.steps < before.steps) return EMPTY;
  const rate = (name) => Math.max(0, now[name] - before[name]) / seconds;
  const point = {
    times: now.time_s,
    generated: rate('generation_tokens'),
    prompt: rate('prompt_tokens'),
    running: now.running,
    waiting: now.waiting,
    queries: rate('prefix_queries') * seconds,
    hits: rate('prefix_hits') * seconds,
  };
  const first = history.times.findIndex((time) => time >= now.time_s - SPAN_S);
  return Object.fromEntries(Object.entries(point).map(([name, value]) =>
    [name, [...(first < 0 ? [] : history[name].slice(first)), value]]));
}

// {stats, history, error}; polls while `on` and while the page is visible.
export function useLive(on) {
  const [live, setLive] = useState({ stats: null, history: EMPTY, error: null });
  useEffect(() => {
    if (!on) return undefined;
    let stopped = false;
    let timer;
    const poll = async () => {
      try {
        if (!document.hidden) {
          const stats = { ...await getJson('stats'), time_s: performance.now() / 1000 };
          setLive(({ stats: before, history }) => ({ stats, history: extend(history, before, stats), error: null }));
        }
      } catch (error) {
        setLive((live) => ({ ...live, error }));
      }
      if (!stopped) timer = setTimeout(poll, PERIOD_MS);
    };
    poll();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [on]);
  return live;
}

const count = (number) => number.toLocaleString('en-US');
const sum = (values) => values.reduce((total, value) => total + value, 0);
const share = (part, all) => (all > 0 ? part / all : 0);
const percent = (fraction) => `${(100 * fraction).toFixed(fraction > 0 && fraction < 0.1 ? 1 : 0)} %`;

// A bar of parts that add up to at most 1: [{share, tone}].
function Bar({ parts }) {
  return html`<div class="bar" aria-hidden="true">${parts.map(({ share, tone }) => html`<i data-tone=${tone}
    style=${{ width: `${Math.min(100, 100 * share)}%` }} />`)}</div>`;
}

function Pages({ stats }) {
  const { kv_pages_total: total, kv_pages_used: used, kv_pages_cached: cached, page_tokens: tokens } = stats;
  return html`<section class="tile" aria-label="KV pages">
    <header><h3>KV pages</h3><span>${count(total)} of ${tokens} tokens each</span></header>
    <${Bar} parts=${[{ share: share(used, total), tone: '--accent' }, { share: share(cached, total), tone: '--accent-soft' }]} />
    <dl><div><dt><i data-tone="--accent" />in use</dt><dd>${count(used)}</dd></div>
      <div><dt><i data-tone="--accent-soft" />kept for prefixes</dt><dd>${count(cached)}</dd></div>
      <div><dt><i data-tone="--track" />free</dt><dd>${count(total - used - cached)}</dd></div></dl>
  </section>`;
}

function Prefix({ stats, history }) {
  const recent = share(sum(history.hits), sum(history.queries));
  const ever = share(stats.prefix_hits, stats.prefix_queries);
  return html`<section class="tile" aria-label="Prefix hits">
    <header><h3>Prefix hits</h3><span>${count(stats.prefix_hits)} of ${count(stats.prefix_queries)} prompt tokens</span></header>
    <${Bar} parts=${[{ share: ever, tone: '--accent' }]} />
    <dl><div><dt>since the start</dt><dd>${percent(ever)}</dd></div>
      <div><dt>last two minutes</dt><dd>${sum(history.queries) > 0 ? percent(recent) : '–'}</dd></div></dl>
  </section>`;
}

function Ranks({ stats }) {
  const times = stats.rank_step_seconds.length ? stats.rank_step_seconds : [stats.last_step_seconds];
  const longest = Math.max(...times, 1e-9);
  return html`<section class="tile" aria-label="Time of each rank">
    <header><h3>Ranks</h3><span>latest step</span></header>
    <div class="ranks">${times.map((seconds, rank) => html`<div key=${rank}>
      <span>${rank}</span>
      <${Bar} parts=${[{ share: seconds / longest, tone: times.length > 1 && seconds === longest ? '--warm' : '--accent' }]} />
      <span>${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1)} ms</span></div>`)}</div>
  </section>`;
}

function Counters({ stats }) {
  const rows = [
    ['Steps', count(stats.steps)],
    ['Rows a step', stats.steps ? (stats.step_rows / stats.steps).toFixed(1) : '–'],
    ['Scheduling', stats.steps ? `${Math.round((1e6 * stats.schedule_seconds) / stats.steps)} µs a step` : '–'],
    ['Answers', count(stats.finished_stop + stats.finished_length)],
    ['Aborted, failed', `${count(stats.finished_aborted)}, ${count(stats.finished_error)}`],
    ['Preempted, refused', `${count(stats.preemptions)}, ${count(stats.refused)}`],
  ];
  if (stats.drafted_tokens > 0) rows.push(['Drafts taken', percent(stats.accepted_tokens / stats.drafted_tokens)]);
  return html`<section class="tile" aria-label="Counters"><dl class="counters">
    ${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></section>`;
}

export function health({ stats, error }) {
  if (error) return { tone: '--bad', text: error.message };
  if (!stats) return { tone: '--faint', text: 'Connecting' };
  if (!stats.ready) return { tone: '--bad', text: stats.message || 'Not ready' };
  const ranks = stats.rank_pids.length;
  return { tone: '--good', text: ranks ? `Ready, ${ranks} rank${ranks === 1 ? '' : 's'}` : 'Ready' };
}

export function Live({ live, theme }) {
  const { stats, history } = live;
  const { tone, text } = health(live);
  const charts = { times: history.times, span: SPAN_S, theme };
  return html`<aside class="live" aria-label="Live view of the engine">
    <p class="health" role="status"><i data-tone=${tone} />${text}</p>
    ${stats && html`
      <${Chart} ...${charts} title="Tokens per second" format=${(value) => (value < 100 ? value.toFixed(1) : count(Math.round(value)))}
        series=${[{ label: 'tokens/s out', values: history.generated, tone: '--accent' },
          { label: 'tokens/s in', values: history.prompt, tone: '--warm' }]} />
      <${Chart} ...${charts} title="Requests" format=${count}
        series=${[{ label: 'running', values: history.running, tone: '--accent', stepped: true },
          { label: 'waiting', values: history.waiting, tone: '--warm', stepped: true }]} />
      <${Pages} stats=${stats} />
      <${Prefix} stats=${stats} history=${history} />
      <${Ranks} stats=${stats} />
      <${Counters} stats=${stats} />`}
  </aside>`;
}
