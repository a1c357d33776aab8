// The messages: the last 60 are in the document, more when one scrolls. It follows the answer until
// the reader moves.
import {html, useEffect, useLayoutEffect, useRef, useState} from '../vendor/vendor.js';
import {Icon} from './icons.js';
import {loadOlder, loadTalk} from './chats.js';
import {Hello} from './hello.js';
import {Trouble} from './trouble.js';
import {Turn} from './turn.js';
import {say, talk} from './state.js';
import {t} from './i18n.js';

const WINDOW = 60, STEP = 40, MOST = 200, NEAR_PX = 48;

export function Log() {
  const chat = talk.value, path = chat.path.value, box = useRef(), follows = useRef(true),
    height = useRef(null);
  const [range, setRange] = useState({chat, from: Math.max(0, path.length - WINDOW), to: Infinity}),
    [isAway, setIsAway] = useState(false);
  const mine = range.chat === chat ? range : {chat, from: Math.max(0, path.length - WINDOW),
    to: Infinity};
  const last = path[path.length - 1]?.value;

  useLayoutEffect(() => {
    follows.current = true;
    setIsAway(false);
    setRange({chat, from: Math.max(0, chat.path.value.length - WINDOW), to: Infinity});
  }, [chat]);
  useLayoutEffect(() => { // a question of the reader's own: to the end
    if (last?.role === 'user') { follows.current = true; setIsAway(false); }
    if (follows.current && path.length - mine.from > MOST) setRange({...mine,
      from: path.length - WINDOW});
  }, [path.length]);
  useLayoutEffect(() => {
    if (height.current !== null) {
      box.current.scrollTop += box.current.scrollHeight - height.current;
      height.current = null;
    } else if (!path.length) box.current.scrollTop = 0; // only an empty chat is shown from its top
    else if (follows.current) box.current.scrollTop = box.current.scrollHeight;
  });
  // Pictures, formulas and fonts change the height without a new word.
  useEffect(() => {
    const watch = new ResizeObserver(() =>
      { if (follows.current && box.current && talk.value.path.value.length) box.current.scrollTop =
      box.current.scrollHeight; });
    watch.observe(box.current.firstElementChild);
    return () => watch.disconnect();
  }, []);

  const older = async () => {
    if (mine.from > 0) {
      height.current = box.current.scrollHeight;
      const from = Math.max(0, mine.from - STEP);
      setRange({chat, from, to: Math.min(mine.to, from + MOST)});
    } else if (chat.hasMore.value && !chat.loading.value) {
      height.current = box.current.scrollHeight;
      const n = path.length;
      try {
        await loadOlder(chat);
        setRange({chat, from: 0, to: Math.min(MOST, mine.to + chat.path.value.length - n)});
      } catch (e) { say(e.message); }
    }
  };
  const later = () => {
    if (mine.to >= path.length) return;
    const to = mine.to + STEP >= path.length ? Infinity : mine.to + STEP;
    setRange({chat, from: Math.max(mine.from, Math.min(to, path.length) - MOST), to});
  };
  const isAtEnd = () =>
    box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < NEAR_PX;
  const moved = (isUp) => {
    if (isUp && box.current.scrollHeight > box.current.clientHeight) { follows.current =
      false; setIsAway(true); }
  };
  const onScroll = () => {
    if (!follows.current && isAtEnd() &&
      mine.to >= path.length) { follows.current = true; setIsAway(false); }
    if (follows.current) return; // it was the page that moved
    if (box.current.scrollTop < 200) older();
    if (box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < 200) later();
  };
  const toEnd = () => {
    setRange({chat, from: Math.max(0, path.length - WINDOW), to: Infinity});
    follows.current = true;
    setIsAway(false);
    box.current.scrollTop = box.current.scrollHeight;
    document.getElementById('ask')?.focus();
  };
  const touch = useRef(0);
  return html`<div class="logbox">
    <div id="log" ref=${box} tabindex="0" role="region" aria-label=${t('Conversation')}
    onScroll=${onScroll} onWheel=${(e) => moved(e.deltaY < 0)}
      onTouchStart=${(e) => { touch.current = e.touches[0].clientY; }} onTouchMove=${(e) =>
        moved(e.touches[0].clientY > touch.current)}
      onKeyDown=${(e) => { if (['ArrowUp', 'PageUp', 'Home'].includes(e.key) &&
        e.target === box.current) moved(true); }}>
    <div class="column">
      ${!path.length && !chat.isStored ? html`<${Hello}/>` : null}
      ${!path.length && chat.loading.value ?
        html`<p class="note" role="status">${t('The chat is being read.')}</p>` : null}
      ${!path.length && chat.isStored && chat.trouble.value ?
        html`<${Trouble} error=${chat.trouble.value} headline=${t('This chat could not be read.')}
        acts=${[[t('Try again'), () => loadTalk(chat), true]]}/>` : null}
      ${mine.from > 0 || chat.hasMore.value ?
        html`<button type="button" class="text older" onClick=${older}>${t('Older messages')}
        </button>` : null}
      ${path.slice(mine.from, mine.to).map((m) =>
        html`<${Turn} key=${m.value.id} chat=${chat} message=${m}/>`)}
    </div></div>
    ${isAway ? html`<button type="button" class="toend" onClick=${toEnd}><${Icon} name="toEnd"/>
      ${t('To the end')}</button>` : null}
    <div class="sr" role="status" aria-live="polite">${last?.role === 'assistant' &&
      last.status === 'complete' ? t('The answer is complete.') : ''}</div></div>`;
}
