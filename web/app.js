// The page: header, conversation, composer, live view.
import { apiKey, getJson } from './api.js';
import { Composer } from './composer.js';
import { useConversation } from './conversation.js';
import { html, render, useEffect, useLayoutEffect, useRef, useState } from './html.js';
import * as Icon from './icons.js';
import { Live, health, useLive } from './live.js';
import { Answer, Question } from './message.js';
import { applyTheme, isDark, loadPanel, loadSettings, loadTheme, savePanel, saveSettings } from './store.js';

const EXAMPLES = ['What is gravity?', 'Write a haiku about weaving.', 'Explain in a table how TCP and UDP differ.'];

function KeyDialog({ reason, onClose }) {
  const dialog = useRef(null);
  const field = useRef(null);
  useLayoutEffect(() => {
    dialog.current.showModal();
    field.current.focus();
  }, []);
  const save = (event) => {
    event.preventDefault();
    apiKey.set(field.current.value.trim());
    onClose(true);
  };
  const cancel = () => onClose(false);
  return html`<dialog class="dialog" ref=${dialog} aria-labelledby="key-title" onCancel=${cancel} onKeyDown=${(event) => event.stopPropagation()}>
    <form onSubmit=${save}>
      <h2 id="key-title">API key</h2>
      <p>${reason ?? 'Sent with every request.'} It is kept until this tab is closed.</p>
      <input ref=${field} type="password" autocomplete="off" aria-label="API key" defaultValue=${apiKey.get()} />
      <footer><button type="button" class="button" onClick=${cancel}>Cancel</button>
        <button type="submit" class="button primary">Use it</button></footer>
    </form>
  </dialog>`;
}

// The models that the server has, once it answers, and the chosen one.
function useModels(session) {
  const [models, setModels] = useState([]);
  const [chosen, choose] = useState(null);
  useEffect(() => {
    let timer;
    const load = async () => {
      try {
        setModels((await getJson('v1/models')).data.map((model) => model.id));
      } catch (error) {
        if (error.status !== 401) timer = setTimeout(load, 2000);
      }
    };
    load();
    return () => clearTimeout(timer);
  }, [session]);
  return { models, model: models.includes(chosen) ? chosen : models[0] ?? '', choose };
}

function Welcome({ model, onSend }) {
  return html`<div class="welcome">
    <h1>${model ? html`Ask <em>${model}</em>` : 'Waiting for the server'}</h1>
    ${model && html`<ul>${EXAMPLES.map((text) => html`<li><button type="button" onClick=${() => onSend(text)}>${text}</button></li>`)}</ul>`}
  </div>`;
}

function Chat({ model, settings, onSettings }) {
  const { messages, busy, stop, send, retry, edit, clear } = useConversation(model, settings);
  const [editing, setEditing] = useState(null);
  const [marked, setMarked] = useState(false);
  const [atEnd, setAtEnd] = useState(true);
  const scroll = useRef(null);
  const field = useRef(null);
  const toEnd = () => scroll.current.scrollTo({ top: scroll.current.scrollHeight });
  useLayoutEffect(() => { if (atEnd) toEnd(); }, [messages]);
  useLayoutEffect(() => {  // listeners of what is seen: an effect after the paint would miss the keys before it
    const key = (event) => {
      const typing = event.target.closest?.('input, textarea, select');
      if (event.key === 'Escape' && busy) stop();
      else if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        field.current.focus();
      }
    };
    addEventListener('keydown', key);
    return () => removeEventListener('keydown', key);
  }, [busy]);
  useLayoutEffect(() => {
    addEventListener('weft:new', clear);
    return () => removeEventListener('weft:new', clear);
  });

  const endEditing = () => {
    setEditing(null);
    field.current.focus();
  };
  const follow = (action) => (...values) => {  // what the user starts is what he wants to see
    setAtEnd(true);
    setEditing(null);
    action(...values);
    field.current.focus();
  };
  const editLast = () => {
    const last = messages.findLast((message) => message.role === 'user');
    if (last) setEditing(last.id);
    return Boolean(last);
  };
  return html`<main class="chat">
    <div class="scroll" ref=${scroll} onScroll=${({ target }) =>
      setAtEnd(target.scrollHeight - target.scrollTop - target.clientHeight < 40)}>
      <div class="column">
        ${messages.length === 0 && html`<${Welcome} model=${model} onSend=${follow(send)} />`}
        ${messages.map((message) => (message.role === 'user'
          ? html`<${Question} key=${message.id} message=${message} editing=${editing === message.id}
              onEdit=${() => setEditing(message.id)} onCancel=${endEditing}
              onSubmit=${follow((content) => edit(message.id, content))} />`
          : html`<${Answer} key=${message.id} message=${message} marked=${marked}
              onRetry=${follow(() => retry(message.id))} onMark=${() => setMarked(!marked)} />`))}
      </div>
    </div>
    <div class="column dock">
      ${!atEnd && messages.length > 0 && html`<button type="button" class="to-end" aria-label="To the newest message" onClick=${toEnd}><${Icon.Down} /></button>`}
      <${Composer} busy=${busy} settings=${settings} onSettings=${onSettings} onSend=${follow(send)} onStop=${stop}
        onEditLast=${editLast} field=${field} />
    </div>
  </main>`;
}

function App() {
  const [settings, setSettings] = useState(loadSettings);
  const [panel, setPanel] = useState(() => loadPanel() && innerWidth >= 1000);
  const [, setTheme] = useState(loadTheme);
  const [asking, setAsking] = useState(null);  // {reason} while the key dialog is open
  const [session, setSession] = useState(0);   // grows with every change of the key
  const { models, model, choose } = useModels(session);
  const [locked, setLocked] = useState(false);  // a key is wanted and the user has none now
  const live = useLive(asking === null && !locked);
  useEffect(() => apiKey.onWanted((error) => setAsking((open) => open ?? { reason: error.message })), []);
  useEffect(() => {
    const system = matchMedia('(prefers-color-scheme: dark)');
    const changed = () => setTheme(`system ${system.matches}`);
    system.addEventListener('change', changed);
    return () => system.removeEventListener('change', changed);
  }, []);

  const dark = isDark();
  const changeTheme = () => {
    applyTheme(dark ? 'light' : 'dark');
    setTheme(dark ? 'light' : 'dark');
  };
  const togglePanel = () => {
    savePanel(!panel);
    setPanel(!panel);
  };
  const state = health(live);
  const themeLabel = dark ? 'Light colours' : 'Dark colours';
  return html`
    <header class="top">
      <span class="brand"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M3 8c3 0 3 8 6 8s3-8 6-8 3 8 6 8M3 16c3 0 3-8 6-8M15 16c3 0 3-8 6-8" /></svg>weft</span>
      ${models.length > 1
        ? html`<select class="model" aria-label="Model" value=${model} onChange=${(event) => choose(event.target.value)}>
            ${models.map((id) => html`<option value=${id}>${id}</option>`)}</select>`
        : html`<span class="model">${model}</span>`}
      <nav aria-label="Page">
        <button type="button" class="quiet" aria-label="New conversation" title="New conversation" onClick=${() => dispatchEvent(new Event('weft:new'))}><${Icon.Plus} /></button>
        <button type="button" class="quiet" aria-label="API key" title="API key" onClick=${() => setAsking({})}><${Icon.Key} /></button>
        <button type="button" class="quiet" aria-label=${themeLabel} title=${themeLabel} onClick=${changeTheme}><${dark ? Icon.Sun : Icon.Moon} /></button>
        <button type="button" class="quiet state" aria-label="Live view" title=${`Live view: ${state.text}`} aria-pressed=${panel} onClick=${togglePanel}>
          <${Icon.Pulse} /><i data-tone=${state.tone} /></button>
      </nav>
    </header>
    <div class="body">
      <${Chat} model=${model} settings=${settings} onSettings=${(next) => {
        saveSettings(next);
        setSettings(next);
      }} />
      ${panel && html`<${Live} live=${live} theme=${dark} />`}
    </div>
    ${asking && html`<${KeyDialog} reason=${asking.reason} onClose=${(saved) => {
      setLocked(saved ? false : locked || Boolean(asking.reason));
      setAsking(null);
      if (saved) setSession(session + 1);
    }} />`}`;
}

applyTheme(loadTheme());
render(html`<${App} />`, document.getElementById('app'));
