// One message: the user's as plain text that can be edited, the model's as Markdown with its token probabilities.
import { html, useLayoutEffect, useRef, useState } from './html.js';
import * as Icon from './icons.js';
import { copyText, renderMarkdown } from './markdown.js';
import { alignBlock, markCurrent, markSurprise, probability, rangesOf, sourceOffset } from './tokens.js';

const visible = (text) => text.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/ /g, '·') || '∅';
const percent = (p) => (p >= 0.9995 ? '100 %' : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : '< 0.1 %');

function TokenTip({ token, rect }) {
  const tip = useRef(null);
  useLayoutEffect(() => {
    const { offsetWidth, offsetHeight, style } = tip.current;
    const above = rect.top - offsetHeight - 8;
    style.left = `${Math.max(8, Math.min(rect.left, innerWidth - offsetWidth - 8))}px`;
    style.top = `${above >= 8 ? above : rect.bottom + 8}px`;
  }, [token, rect]);
  const rows = token.top.some((each) => each.text === token.text)
    ? token.top
    : [...token.top, { text: token.text, logprob: token.logprob }];
  return html`<div class="tip" role="tooltip" ref=${tip}>
    ${rows.map((each) => html`<div class=${`tip-row ${each.text === token.text ? 'chosen' : ''}`}>
      <code>${visible(each.text)}</code>
      <span class="bar"><i style=${{ width: percent(probability(each.logprob)).replace(/[< ]/g, '') }} /></span>
      <span>${percent(probability(each.logprob))}</span>
    </div>`)}
  </div>`;
}

// The place in the text under a point: {node, offset}, of the character left or right of it.
function placesAt(x, y) {
  const at = document.caretPositionFromPoint?.(x, y) ?? document.caretRangeFromPoint?.(x, y);
  if (!at) return [];
  const node = at.offsetNode ?? at.startContainer;
  const offset = at.offset ?? at.startOffset;
  return [{ node, offset }, { node, offset: offset - 1 }];
}

// The text of an answer. Pointing at it, or walking through it with the arrow keys, shows each token's probability.
function AnswerText({ message, marked }) {
  const element = useRef(null);
  const blocks = useRef([]);
  const pointer = useRef(null);  // where it rests: {clientX, clientY}; null if it is elsewhere or the keyboard walks
  const [current, setCurrent] = useState(null);  // the token shown: {index, ranges, rect}
  const { content, tokens = [], tokensFrom = -1 } = message;
  const known = tokensFrom >= 0 && tokens.length > 0;

  useLayoutEffect(() => { blocks.current = renderMarkdown(element.current, content, blocks.current); }, [content]);
  const pieces = () => blocks.current.flatMap((block) => (block.pieces ??= alignBlock(block)));
  const shifted = () => tokens.map((token) => ({ ...token, start: token.start - tokensFrom, end: token.end - tokensFrom }));
  useLayoutEffect(() => (marked && known ? markSurprise(pieces(), shifted()) : undefined),
    [marked, content, tokens.length, tokensFrom]);
  useLayoutEffect(() => {
    if (!current) return undefined;
    markCurrent(current.ranges);
    // The text moves under a pointer that rests; what the keyboard walks to takes its tip along.
    const moved = () => (pointer.current ? point(pointer.current) : show(current.index, current.ranges));
    addEventListener('scroll', moved, true);
    return () => {
      removeEventListener('scroll', moved, true);
      markCurrent([]);
    };
  }, [current]);

  const rangesOfToken = (index) =>
    rangesOf(pieces(), tokens[index].start - tokensFrom, tokens[index].end - tokensFrom);
  const show = (index, ranges) => setCurrent({ index, ranges, rect: ranges[0].getBoundingClientRect() });
  const point = ({ clientX, clientY }) => {
    for (const { node, offset } of placesAt(clientX, clientY)) {
      const at = sourceOffset(pieces(), node, offset);
      const index = at < 0 ? -1 : tokens.findIndex((token) => token.start <= at + tokensFrom && at + tokensFrom < token.end);
      if (index < 0) continue;
      const ranges = rangesOfToken(index);
      const inside = ({ left, right, top, bottom }) =>
        left <= clientX && clientX <= right && top <= clientY && clientY <= bottom;
      if (!ranges.some((range) => [...range.getClientRects()].some(inside))) continue;
      show(index, ranges);
      return;
    }
    setCurrent(null);
  };
  const move = ({ clientX, clientY, buttons }) => {
    pointer.current = { clientX, clientY };
    if (known && !buttons) point(pointer.current);
  };
  const hide = () => {
    pointer.current = null;
    setCurrent(null);
  };
  const walk = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === 'Escape') hide();
    if (!step || !known || event.target !== element.current) return;
    event.preventDefault();
    pointer.current = null;
    const from = current ? current.index + step : step > 0 ? 0 : tokens.length - 1;
    for (let index = from; index >= 0 && index < tokens.length; index += step) {
      const ranges = rangesOfToken(index);
      if (ranges.some((range) => range.toString().trim())) {
        ranges[0].startContainer.parentElement.scrollIntoView({ block: 'nearest' });
        show(index, ranges);
        return;
      }
    }
  };
  return html`
    <div class="markdown" ref=${element} tabindex=${known ? 0 : -1} role="group"
      aria-label="Answer; left and right arrow walk through its tokens"
      onPointerMove=${move} onPointerLeave=${hide} onKeyDown=${walk} onBlur=${hide}></div>
    ${current && tokens[current.index] && html`<${TokenTip} token=${tokens[current.index]} rect=${current.rect} />`}`;
}

function Numbers({ message }) {
  const parts = [];
  const { usage, firstTokenMs, tokensPerSecond, finish, state, tokens } = message;
  const count = usage?.completion_tokens ?? tokens?.length;
  if (count) parts.push(`${count} token${count === 1 ? '' : 's'}`);
  if (tokensPerSecond) parts.push(`${tokensPerSecond.toFixed(1)} tokens/s`);
  if (firstTokenMs !== undefined) parts.push(`first after ${firstTokenMs < 995 ? `${Math.round(firstTokenMs)} ms` : `${(firstTokenMs / 1000).toFixed(1)} s`}`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) parts.push(`${cached} of ${usage.prompt_tokens} prompt tokens cached`);
  if (state === 'stopped') parts.push('stopped');
  else if (finish === 'length') parts.push('cut at the token limit');
  return html`<span class="numbers">${parts.join(' · ')}</span>`;
}

function Action({ label, icon, onClick, pressed }) {
  return html`<button type="button" class="quiet" title=${label} aria-label=${label} aria-pressed=${pressed}
    onClick=${onClick}><${icon} /></button>`;
}

export function Answer({ message, marked, onRetry, onMark }) {
  const { content, reasoning, state, error, tokens } = message;
  const running = state === 'running';
  return html`<article class=${`message answer ${running ? 'running' : ''}`} aria-busy=${running}>
    ${reasoning && html`<details class="reasoning" open=${running && !content}>
      <summary>Thoughts</summary><div>${reasoning}</div></details>`}
    ${running && !content && !reasoning && html`<div class="waiting" role="status"><span class="visually-hidden">Waiting for the first token</span><i /><i /><i /></div>`}
    <${AnswerText} message=${message} marked=${marked} />
    ${error && html`<div class="error" role="alert">${error}</div>`}
    ${!running && html`<footer>
      <${Action} label="Answer again" icon=${Icon.Retry} onClick=${onRetry} />
      ${content && html`<${Action} label="Copy" icon=${Icon.Copy} onClick=${() => copyText(content)} />`}
      ${tokens?.length > 0 && html`<${Action} label="Mark improbable tokens" icon=${Icon.Odds} onClick=${onMark} pressed=${marked} />`}
      <${Numbers} message=${message} />
    </footer>`}
  </article>`;
}

export function Question({ message, editing, onEdit, onCancel, onSubmit }) {
  const field = useRef(null);
  useLayoutEffect(() => {  // before the next key comes
    if (!editing) return;
    field.current.focus();
    field.current.setSelectionRange(message.content.length, message.content.length);
  }, [editing]);
  const submit = () => field.current.value.trim() && onSubmit(field.current.value.trim());
  const key = (event) => {
    if (event.isComposing) return;
    if (event.key === 'Escape') {
      event.stopPropagation();
      onCancel();
    } else if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      submit();
    }
  };
  if (editing) {
    return html`<article class="message question editing">
      <textarea ref=${field} rows="3" aria-label="Edit the message" defaultValue=${message.content} onKeyDown=${key} />
      <footer><span class="numbers">What follows is answered anew</span>
        <button type="button" class="button" onClick=${onCancel}>Cancel</button>
        <button type="button" class="button primary" onClick=${submit}>Send</button></footer>
    </article>`;
  }
  return html`<article class="message question">
    <div class="text">${message.content}</div>
    <footer><${Action} label="Edit" icon=${Icon.Edit} onClick=${onEdit} />
      <${Action} label="Copy" icon=${Icon.Copy} onClick=${() => copyText(message.content)} /></footer>
  </article>`;
}
