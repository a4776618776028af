// What outlives a component: parameters and theme (kept by the browser), the conversation (kept by the tab).

function load(storage, key, otherwise) {
  try {
    return JSON.parse(storage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {  // full or forbidden: the page works without
    storage.removeItem(key);
  }
}

// Every parameter of a request that the page offers; an empty one is left to the server.
export const PARAMETERS = [
  { name: 'temperature', label: 'Temperature', min: 0, max: 2, step: 0.05, usual: 1, slider: true },
  { name: 'top_p', label: 'Top P', min: 0.01, max: 1, step: 0.01, usual: 1, slider: true },
  { name: 'max_tokens', label: 'Answer tokens', min: 1, step: 1, hint: 'at most' },
  { name: 'seed', label: 'Seed', min: 0, step: 1, hint: 'random' },
  { name: 'top_k', label: 'Top K', min: 0, step: 1, hint: 'all' },
  { name: 'min_p', label: 'Min P', min: 0, max: 1, step: 0.01, hint: '0' },
  { name: 'repetition_penalty', label: 'Repetition penalty', min: 0.01, max: 2, step: 0.05, hint: '1' },
  { name: 'frequency_penalty', label: 'Frequency penalty', min: -2, max: 2, step: 0.1, hint: '0' },
  { name: 'presence_penalty', label: 'Presence penalty', min: -2, max: 2, step: 0.1, hint: '0' },
];

export const loadSettings = () => load(localStorage, 'weft.settings', {});
export const saveSettings = (settings) => save(localStorage, 'weft.settings', settings);

// 'light', 'dark' or '' for what the system says.
export const loadTheme = () => load(localStorage, 'weft.theme', '');
export function applyTheme(theme) {
  save(localStorage, 'weft.theme', theme);
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

export const loadPanel = () => load(localStorage, 'weft.panel', true);
export const savePanel = (open) => save(localStorage, 'weft.panel', open);

export const loadConversation = () => load(sessionStorage, 'weft.conversation', []);
export const saveConversation = (messages) => save(sessionStorage, 'weft.conversation', messages);

// The body of a chat request.
export function chatBody(model, messages, settings) {
  const body = {
    model,
    messages: messages.filter((each) => each.content !== '').map(({ role, content }) => ({ role, content })),
    stream: true,
    stream_options: { include_usage: true },
    logprobs: true,
    top_logprobs: 5,
  };
  if (settings.system?.trim()) body.messages.unshift({ role: 'system', content: settings.system });
  const stop = (settings.stop ?? '').split('\n').filter((line) => line !== '');
  if (stop.length) body.stop = stop;
  for (const { name } of PARAMETERS) {
    if (Number.isFinite(settings[name])) body[name] = settings[name];
  }
  return body;
}
