// Which token stands behind which piece of the rendered answer, found without changing the DOM: rendered text is
// aligned with its Markdown source, tokens are ranges of that source.

const SKIPPED = '.code-bar';
const WINDOW = 400;  // how much source markup may lie between two words, for instance a link's address

// The tokens of an answer as ranges of its text (UTF-16 offsets). A token may hold part of a character: it is then
// empty and the one that completes the character has it all.
export class TokenList {
  constructor() {
    this.tokens = [];  // {start, end, text, logprob, top: [{text, logprob}]}
    this.text = '';
    this.decoder = new TextDecoder();
  }
  // `entry`: one of a chunk's logprobs.content.
  push(entry) {
    const bytes = entry.bytes ? Uint8Array.from(entry.bytes) : new TextEncoder().encode(entry.token);
    const start = this.text.length;
    this.text += this.decoder.decode(bytes, { stream: true });
    const plain = ({ token, logprob }) => ({ text: token, logprob });
    this.tokens.push({ start, end: this.text.length, ...plain(entry), top: (entry.top_logprobs ?? []).map(plain) });
  }
}

// Where `content` begins in the text of all tokens, which may have thoughts before it and a stop string after it; -1 if
// they do not match.
export const contentStart = (list, content) => list.text.lastIndexOf(content);

// Pieces of the text nodes under `block` and where they stand in the source: [{node, from, to, at}], in order.
export function alignBlock(block) {
  const pieces = [];
  const { raw, start, element } = block;
  const skip = (node) =>
    (node.parentElement.closest(SKIPPED) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT, skip);
  let position = 0;  // in raw
  const add = (node, from, length, at) => {
    const last = pieces.at(-1);
    if (last?.node === node && last.to === from && last.at + from - last.from === start + at) last.to += length;
    else pieces.push({ node, from, to: from + length, at: start + at });
    position = at + length;
  };
  const find = (text) => {
    const found = raw.indexOf(text, position);
    return found >= 0 && found - position <= WINDOW ? found : -1;
  };
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (const match of node.data.matchAll(/\s+|\S+/g)) {
      const [word] = match;
      const blank = word.trim() === '';
      const whole = blank ? (raw.startsWith(word, position) ? position : -1) : find(word);
      if (whole >= 0) add(node, match.index, word.length, whole);
      else if (!blank) {  // an entity or an escape lies inside the word
        for (let i = 0; i < word.length; ++i) {
          const single = find(word[i]);
          if (single >= 0) add(node, match.index + i, 1, single);
        }
      }
    }
  }
  return pieces;
}

// The offset in the source of a place in the DOM, or -1.
export function sourceOffset(pieces, node, offset) {
  const piece = pieces.find((each) => each.node === node && each.from <= offset && offset < each.to);
  return piece ? piece.at + offset - piece.from : -1;
}

// The DOM ranges that show source [start, end).
export function rangesOf(pieces, start, end) {
  const ranges = [];
  for (const { node, from, to, at } of pieces) {
    const first = Math.max(start, at);
    const last = Math.min(end, at + to - from);
    if (first < last) {
      const range = new Range();
      range.setStart(node, from + first - at);
      range.setEnd(node, from + last - at);
      ranges.push(range);
    }
  }
  return ranges;
}

export const probability = (logprob) => Math.exp(logprob);

// 0 for what the model was sure of, 4 for what surprised it most.
export function surprise(logprob) {
  const p = probability(logprob);
  return p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4;
}

// Named highlights (CSS Custom Highlight API); a browser without them shows only the tooltip.
function highlight(name) {
  if (!globalThis.CSS?.highlights) return new Set();
  if (!CSS.highlights.has(name)) CSS.highlights.set(name, new Highlight());
  return CSS.highlights.get(name);
}

// Marks tokens by surprise; returns a function that takes the marks back.
export function markSurprise(pieces, tokens) {
  const marks = [];
  for (const token of tokens) {
    const level = surprise(token.logprob);
    if (level === 0) continue;
    for (const range of rangesOf(pieces, token.start, token.end)) {
      highlight(`surprise-${level}`).add(range);
      marks.push([`surprise-${level}`, range]);
    }
  }
  return () => marks.forEach(([name, range]) => highlight(name).delete(range));
}

// Marks the token that is pointed at, over the other marks.
export function markCurrent(ranges) {
  highlight('token').priority = 1;
  highlight('token').clear();
  for (const range of ranges) highlight('token').add(range);
}
