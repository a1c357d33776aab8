// The messages: the last 60 are in the document, more when one scrolls. It follows the answer until
// the reader moves.
import {html, useEffect, useLayoutEffect, useRef, useState} from '../vendor/vendor.js';
import {Icon} from './icons.js';
import {loadOlder, loadTalk} from './chats.js';
import {Hello} from './hello.js';
import {Trouble} from './trouble.js';
import {Turn} from './turn.js';
import {reveal, say, talk} from './state.js';
import {t} from './i18n.js';

const WINDOW = 60, STEP = 40, MOST = 200, NEAR_PX = 48;

export function Log() {
  const chat = talk.value, path = chat.path.value, box = useRef(), follows = useRef(true),
    height = useRef(null), wanted = useRef(null);
  const [range, setRange] = useState(null), [isAway, setIsAway] = useState(false);
  // Places in the path, and its first message then: older ones that came since shift them.
  const place = (from, to) => ({chat, head: chat.path.value[0], from, to});
  const end = () => place(Math.max(0, chat.path.value.length - WINDOW), Infinity);
  // Of this chat, and not from when it was empty.
  const isOwn = range?.chat === chat && !!range.head;
  const shift = isOwn ? Math.max(0, path.indexOf(range.head)) : 0;
  const mine = isOwn ? place(range.from + shift, range.to + shift) : end();
  const last = path[path.length - 1]?.value;

  useLayoutEffect(() => {
    follows.current = true;
    setIsAway(false);
  }, [chat]);
  useLayoutEffect(() => { if (!isOwn && path.length) setRange(end()); }, [isOwn, path.length]);
  useLayoutEffect(() => { // somebody looks for a message
    const at = reveal.value?.chat === chat ?
      path.findIndex((m) => m.value.id === reveal.value.id) : -1;
    if (at < 0) return;
    follows.current = false;
    wanted.current = reveal.value.id;
    if (at >= mine.from && at < mine.to) return;
    const to = at + WINDOW / 2;
    setRange(place(Math.max(0, at - WINDOW / 2), to >= path.length ? Infinity : to));
  }, [reveal.value]);
  useLayoutEffect(() => { // a question of the reader's own: to the end
    if (last?.role === 'user') { follows.current = true; setIsAway(false); }
    if (follows.current && path.length - mine.from > MOST) setRange(end());
  }, [path.length]);
  useLayoutEffect(() => {
    if (height.current !== null) {
      box.current.scrollTop += box.current.scrollHeight - height.current;
      height.current = null;
    } else if (!path.length) box.current.scrollTop = 0; // only an empty chat is shown from its top
    else if (wanted.current) lookAt(wanted.current);
    else if (follows.current) box.current.scrollTop = box.current.scrollHeight;
  });
  // Pictures, formulas and fonts change the height without a new word; the search and a longer
  // question take some of the window.
  useEffect(() => {
    const watch = new ResizeObserver(() =>
      { if (follows.current && box.current && talk.value.path.value.length) box.current.scrollTop =
      box.current.scrollHeight; });
    watch.observe(box.current.firstElementChild);
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);

  const older = async () => {
    if (mine.from > 0) {
      height.current = box.current.scrollHeight;
      const from = Math.max(0, mine.from - STEP);
      setRange(place(from, Math.min(mine.to, from + MOST)));
    } else if (chat.hasMore.value && !chat.loading.value) {
      height.current = box.current.scrollHeight;
      const n = path.length;
      try {
        await loadOlder(chat);
        setRange(place(0, Math.min(MOST, mine.to + chat.path.value.length - n)));
      } catch (e) { say(e.message); }
    }
  };
  const later = () => {
    if (mine.to >= path.length) return;
    const to = mine.to + STEP >= path.length ? Infinity : mine.to + STEP;
    setRange(place(Math.max(mine.from, Math.min(to, path.length) - MOST), to));
  };
  const isAtEnd = () =>
    box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < NEAR_PX;
  // A message that is in sight already stays where it is.
  const lookAt = (id) => {
    const turn = box.current.querySelector(`[data-id="${CSS.escape(id)}"]`), around =
      box.current.getBoundingClientRect(), mine = turn?.getBoundingClientRect();
    if (!turn) return;
    wanted.current = null;
    if (mine.bottom < around.top + NEAR_PX || mine.top > around.bottom - NEAR_PX)
      box.current.scrollTop += mine.top - around.top - around.height / 3;
  };
  const moved = (isUp) => {
    if (isUp && box.current.scrollHeight > box.current.clientHeight) { follows.current =
      false; setIsAway(true); }
  };
  const onScroll = () => {
    if (!follows.current && isAtEnd() &&
      mine.to >= path.length) { follows.current = true; setIsAway(false); }
    if (follows.current) return; // it was the page that moved
    if (!isAtEnd() || mine.to < path.length) setIsAway(true);
    if (box.current.scrollTop < 200) older();
    if (box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < 200) later();
  };
  const toEnd = () => {
    setRange(end());
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
