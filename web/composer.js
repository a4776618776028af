// Where the user writes, and the parameters beside it.
import { html, useLayoutEffect, useRef, useState } from './html.js';
import * as Icon from './icons.js';
import { PARAMETERS } from './store.js';

function Parameter({ parameter, value, onChange }) {
  const { name, label, min, max, step, slider, usual, hint } = parameter;
  const read = (event) => onChange(name, event.target.value === '' ? undefined : Number(event.target.value));
  return html`<label class=${slider ? 'parameter wide' : 'parameter'}>
    <span>${label}</span>
    ${slider && html`<input type="range" min=${min} max=${max} step=${step} value=${value ?? usual} tabindex="-1"
      aria-hidden="true" onInput=${read} />`}
    <input type="number" min=${min} max=${max} step=${step} value=${value ?? ''} placeholder=${hint ?? usual} onInput=${read} />
  </label>`;
}

function Parameters({ settings, onChange, onClose }) {
  const first = useRef(null);
  useLayoutEffect(() => first.current.focus(), []);
  const set = (name, value) => onChange({ ...settings, [name]: value });
  const close = (event) => {
    if (event.key === 'Escape') {
      event.stopPropagation();
      onClose();
    }
  };
  return html`<section class="parameters" id="parameters" aria-label="Parameters" onKeyDown=${close}>
    <label class="parameter tall"><span>System prompt</span>
      <textarea ref=${first} rows="2" value=${settings.system ?? ''} placeholder="The model's own"
        onInput=${(event) => set('system', event.target.value)} /></label>
    <div class="grid">
      ${PARAMETERS.map((parameter) => html`<${Parameter} key=${parameter.name} parameter=${parameter}
        value=${settings[parameter.name]} onChange=${set} />`)}
    </div>
    <label class="parameter tall"><span>Stop strings, one a line</span>
      <textarea rows="1" value=${settings.stop ?? ''} placeholder="None"
        onInput=${(event) => set('stop', event.target.value)} /></label>
    <footer><span class="numbers">Empty fields are left to the server</span>
      <button type="button" class="button" onClick=${() => onChange({})}>Reset</button>
      <button type="button" class="button" onClick=${onClose}>Done</button></footer>
  </section>`;
}

// The parameters that are set, in words.
function summary(settings) {
  const parts = PARAMETERS.filter(({ name }) => Number.isFinite(settings[name]))
    .map(({ name, label }) => `${label.toLowerCase()} ${settings[name]}`);
  if (settings.system?.trim()) parts.unshift('system prompt');
  if (settings.stop?.trim()) parts.push('stop strings');
  return parts.join(', ') || 'Parameters';
}

export function Composer({ busy, settings, onSettings, onSend, onStop, onEditLast, field }) {
  const [text, setText] = useState('');
  const [open, setOpen] = useState(false);
  useLayoutEffect(() => {  // as tall as the text, up to the style's max-height
    field.current.style.height = 'auto';
    field.current.style.height = `${field.current.scrollHeight}px`;
  }, [text]);

  const send = () => {
    if (busy || !text.trim()) return;
    onSend(text.trim());
    setText('');
  };
  const key = (event) => {
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      send();
    } else if (event.key === 'ArrowUp' && text === '' && onEditLast()) {
      event.preventDefault();
    }
  };
  return html`<div class="composer">
    ${open && html`<${Parameters} settings=${settings} onChange=${onSettings} onClose=${() => {
      setOpen(false);
      field.current.focus();
    }} />`}
    <form class="entry" onSubmit=${(event) => {
      event.preventDefault();
      send();
    }}>
      <textarea ref=${field} rows="1" value=${text} placeholder="Write a message" aria-label="Message" autofocus
        onInput=${(event) => setText(event.target.value)} onKeyDown=${key} />
      <div class="row">
        <button type="button" class="chip" aria-expanded=${open} aria-controls="parameters" onClick=${() => setOpen(!open)}>
          <${Icon.Tune} /><span>${summary(settings)}</span></button>
        <span class="keys"><kbd>Enter</kbd> sends <kbd>Shift Enter</kbd> new line <kbd>Esc</kbd> stops <kbd>↑</kbd> edits</span>
        ${busy
          ? html`<button type="button" class="send" aria-label="Stop" title="Stop (Esc)" onClick=${onStop}><${Icon.Stop} /></button>`
          : html`<button type="submit" class="send" aria-label="Send" title="Send (Enter)" disabled=${!text.trim()}><${Icon.Send} /></button>`}
      </div>
    </form>
  </div>`;
}
