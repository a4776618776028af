// Markdown to DOM. What a model writes is hostile until proven harmless: HTML in it is shown as text, and what the
// parser makes passes DOMPurify with a short list of what may stay.
import { Marked } from './vendor/marked.js';
import DOMPurify from './vendor/dompurify.js';

const escapeHtml = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escapeHtml(text),
    image: ({ text, href }) => escapeHtml(`[${text || 'image'}: ${href}]`),  // never loads what a model names
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

const ALLOWED = {
  ALLOWED_TAGS: ['p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'strong', 'em', 'del', 'code', 'pre', 'blockquote',
    'ul', 'ol', 'li', 'a', 'table', 'thead', 'tbody', 'tr', 'th', 'td'],
  ALLOWED_ATTR: ['href', 'title', 'start', 'class', 'align'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook('uponSanitizeAttribute', (node, attribute) => {
  if (attribute.attrName === 'class') {
    attribute.keepAttr = node.nodeName === 'CODE' && /^language-[\w+#.-]+$/.test(attribute.attrValue);
  }
});
DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.nodeName === 'A' && node.hasAttribute('href')) {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer nofollow');
  }
});

// Copies text also where the page is not served securely and there is no clipboard API.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

function addCodeBar(pre) {
  const language = pre.querySelector('code')?.className.replace('language-', '') ?? '';
  const bar = document.createElement('div');
  bar.className = 'code-bar';
  const label = document.createElement('span');
  label.textContent = language;
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Copy';
  button.onclick = async () => {
    await copyText(pre.querySelector('code').textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  };
  bar.append(label, button);
  const frame = document.createElement('div');
  frame.className = 'code';
  pre.replaceWith(frame);
  frame.append(bar, pre);
}

function renderBlock(token, links) {
  const one = [token];
  one.links = links;
  const block = document.createElement('div');
  block.className = 'block';
  block.append(DOMPurify.sanitize(marked.parser(one), ALLOWED));
  for (const pre of block.querySelectorAll('pre')) addCodeBar(pre);
  for (const table of block.querySelectorAll('table')) {
    const frame = document.createElement('div');
    frame.className = 'table';
    table.replaceWith(frame);
    frame.append(table);
  }
  return block;
}

// Shows `text` in `element`, as one child for each top-level block; blocks that did not change since the last call stay
// as they are, so a long answer costs little while it grows and a selection in it survives. Returns the blocks:
// {raw, start, element}, `start` the offset of `raw` in `text`.
export function renderMarkdown(element, text, before = []) {
  const tokens = marked.lexer(text);
  const blocks = [];
  let start = 0;
  for (const token of tokens) {
    if (token.type !== 'space') {
      const old = before[blocks.length];
      const same = old?.raw === token.raw && old.start === start;
      const block = same ? old : { raw: token.raw, start, element: renderBlock(token, tokens.links) };
      if (!old) element.append(block.element);
      else if (!same) old.element.replaceWith(block.element);
      blocks.push(block);
    }
    start += token.raw.length;
  }
  for (const old of before.slice(blocks.length)) old.element.remove();
  return blocks;
}
