// The conversation: its messages, and the one request that may be running.
import { streamChat } from './api.js';
import { useLayoutEffect, useRef, useState } from './html.js';
import { chatBody, loadConversation, saveConversation } from './store.js';
import { TokenList, contentStart } from './tokens.js';

let lastId = 0;
const newId = () => (lastId = Math.max(lastId + 1, Date.now()));

// A message: {id, role, content}; an answer also has
//   state: 'running', 'done', 'stopped' (by the user) or 'failed' (`error` says why)
//   reasoning, tokens and tokensFrom (see TokenList), finish, usage, firstTokenMs, tokensPerSecond
const restored = (message) => (message.state === 'running' ? { ...message, state: 'stopped' } : message);

// Runs a request and calls update(fields) at most once a frame, and at the end.
async function generate(body, signal, update) {
  const answer = { content: '', reasoning: '', tokens: [], tokensFrom: -1 };
  const tokens = new TokenList();
  const began = performance.now();
  let first = 0;
  let frame = 0;
  const flush = () => {
    frame = 0;
    update({ ...answer, tokens: tokens.tokens, tokensFrom: contentStart(tokens, answer.content) });
  };
  try {
    await streamChat(body, signal, (chunk) => {
      if (chunk.usage) answer.usage = chunk.usage;
      const choice = chunk.choices[0];
      if (!choice) return;
      const { content, reasoning_content: reasoning } = choice.delta;
      if (content) answer.content += content;
      if (reasoning) answer.reasoning += reasoning;
      if (choice.finish_reason) answer.finish = choice.finish_reason;
      for (const entry of choice.logprobs?.content ?? []) tokens.push(entry);
      if (content || reasoning) {
        const now = performance.now();
        first ||= now;
        answer.firstTokenMs = first - began;
        answer.tokensPerSecond = now > first ? ((tokens.tokens.length - 1) * 1000) / (now - first) : undefined;
      }
      frame ||= requestAnimationFrame(flush);
    });
    answer.state = 'done';
  } catch (error) {
    const stopped = error.name === 'AbortError';
    Object.assign(answer, { state: stopped ? 'stopped' : 'failed', error: stopped ? undefined : error.message });
  } finally {
    cancelAnimationFrame(frame);
    flush();
  }
}

export function useConversation(model, settings) {
  const [messages, setMessages] = useState(() => loadConversation().map(restored));
  const running = useRef(null);  // AbortController
  const busy = messages.at(-1)?.state === 'running';
  useLayoutEffect(() => { if (!busy) saveConversation(messages); }, [messages, busy]);

  const stop = () => running.current?.abort();

  // Answers the conversation `history`, which ends with a message of the user.
  const answer = (history) => {
    stop();
    const controller = new AbortController();
    running.current = controller;
    const id = newId();
    setMessages([...history, { id, role: 'assistant', content: '', state: 'running' }]);
    generate(chatBody(model, history, settings), controller.signal, (fields) => {
      setMessages((all) => all.map((message) => (message.id === id ? { ...message, ...fields } : message)));
    });
  };
  return {
    messages,
    busy,
    stop,
    send: (content) => answer([...messages, { id: newId(), role: 'user', content }]),
    // Answers anew: all from message `id` on is dropped, which is an answer ...
    retry: (id) => answer(messages.slice(0, messages.findIndex((message) => message.id === id))),
    // ... or a message of the user, which `content` replaces.
    edit: (id, content) => {
      const at = messages.findIndex((message) => message.id === id);
      answer([...messages.slice(0, at), { id: newId(), role: 'user', content }]);
    },
    clear: () => {
      stop();
      setMessages([]);
    },
  };
}
