// The server's API as the page uses it. Paths are relative to the page, so that it works behind a prefix, too.

const KEY = 'weft.key';
let onKeyWanted = () => {};

// The API key lives as long as the tab.
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
  // `callback(error)` is called when the server refuses a request for want of a valid key.
  onWanted: (callback) => { onKeyWanted = callback; },
};

// What the server, or the way to it, had to say. `status` is 0 where no answer came.
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

function errorOf(fault, status) {
  return new ApiError(fault?.message || `The server answered with status ${status}.`, { ...fault, status });
}

// Sends a request, a POST where there is a body. Throws ApiError, and AbortError when `signal` says so.
export async function request(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey.get()) headers.authorization = `Bearer ${apiKey.get()}`;
  if (body) headers['content-type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server cannot be reached.');
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const error = errorOf(answer?.error, response.status);
  if (response.status === 401) onKeyWanted(error);
  throw error;
}

export async function getJson(path) {
  return (await request(path)).json();
}

// The data of each server-sent event of a response: https://html.spec.whatwg.org/multipage/server-sent-events.html
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
      else if (line === '' && data.length) {
        yield data.join('\n');
        data = [];
      }
    }
  }
}

// Streams a chat completion: calls onChunk(chunk) for each of its objects. Throws ApiError also for an error inside the
// stream, and for one that ends without [DONE].
export async function streamChat(body, signal, onChunk) {
  const response = await request('v1/chat/completions', { body, signal });
  try {
    for await (const data of events(response)) {
      if (data === '[DONE]') return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw errorOf(chunk.error, response.status);
      onChunk(chunk);
    }
  } catch (error) {
    if (error.name === 'AbortError' || error instanceof ApiError) throw error;
    throw new ApiError('The connection to the server was lost.');
  }
  throw new ApiError('The answer broke off: the server closed the stream before its end.');
}
