// Code and formulas of an answer. Their libraries load when the first of them is shown.
import {html, useEffect, useLayoutEffect, useRef, useState} from '../vendor/vendor.js';
import {t} from './i18n.js';
import {copyText, saveFile} from './store.js';

const MAX_COLOURED = 60000, MAX_FORMULA = 20000;
let hljs = null, katex = null;
const loadHljs = async () => { hljs ??= (await import('../vendor/hljs.js')).default; };

async function loadKatex() {
  if (katex) return;
  const sheet = document.createElement('link');
  sheet.rel = 'stylesheet';
  sheet.href = new URL('../vendor/katex.css', import.meta.url);
  document.head.append(sheet);
  katex = await import('../vendor/katex.js');
}

export const loadLibraries = () => Promise.all([loadHljs(), loadKatex()]);

const coloured = (nodes) => nodes.map((n) => typeof n === 'string' ?
  n : html`<span class=${n.scope ? `hl-${n.scope.split('.')[0]}` : null}>${coloured(n.children)}
  </span>`);

function colour(text, lang) {
  if (!hljs || !lang || text.length > MAX_COLOURED || !hljs.getLanguage(lang)) return text;
  return coloured(hljs.highlight(text,
    {language: lang, ignoreIllegals: true})._emitter.rootNode.children);
}

export function CopyButton({text, label, className = 'text'}) {
  const [state, setState] = useState('');
  const copy = async () => {
    setState(await copyText(typeof text === 'function' ? text() : text) ?
      t('Copied') : t('Not allowed'));
    setTimeout(() => setState(''), 1500);
  };
  return html`<button type="button" class=${className} onClick=${copy} aria-label=${label}>
    <span aria-live="polite">${state || t('Copy')}</span></button>`;
}

const ENDINGS = {python: 'py', javascript: 'js', typescript: 'ts', bash: 'sh', shell: 'sh',
  markdown: 'md', rust: 'rs', c: 'c', cpp: 'cpp', html: 'html', json: 'json', yaml: 'yml',
  sql: 'sql'};

export function Code({text, lang, isClosed}) {
  const [, setReady] = useState(!!hljs), name = /^[\w+#.-]{1,20}/.exec(lang)?.[0].toLowerCase() ??
    '';
  useEffect(() => { if (isClosed && name && !hljs) loadHljs().then(() => setReady(true), () =>
    {}); }, [isClosed, name]);
  return html`<figure class="code"><figcaption>${name || t('text')}<span>
      <button type="button" class="text"
        onClick=${() => saveFile(`code.${ENDINGS[name] ?? (name || 'txt')}`, 'text/plain', text)}>
        ${t('Save')}</button>
      <${CopyButton} text=${text} label=${t('Copy the code')}/></span></figcaption>
    <pre tabindex="0" role="region" aria-label=${t('Code, {lang}', {lang: name || t('text')})}>
      <code>${isClosed ? colour(text, name) : text}</code></pre></figure>`;
}

export function Formula({tex, display}) {
  const [ready, setReady] = useState(!!katex), box = useRef();
  useEffect(() => { if (!katex) loadKatex().then(() => setReady(true), () => {}); }, []);
  useLayoutEffect(() => {
    if (!ready || tex.length > MAX_FORMULA) return;
    try {
      katex.render(tex, box.current, {displayMode: display, throwOnError: true, trust: false,
        strict: 'ignore', maxSize: 20, maxExpand: 200});
    } catch { box.current.textContent = tex; }
  }, [ready, tex, display]);
  return display ? html`<div class="formula" tabindex="0" role="region" aria-label=${t('Formula')}>
    <span ref=${box}>${ready ? null : html`<code>${tex}</code>`}</span></div>`
    : html`<span class="formula-inline" ref=${box}>${ready ? null : html`<code>${tex}</code>`}
      </span>`;
}
