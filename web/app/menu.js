// A button with a menu below it: arrows move, Escape closes, Tab leaves.
import {html, useEffect, useRef, useState} from '../vendor/vendor.js';
import {Icon} from './icons.js';

// items: [[icon, label, function], …]
export function Menu({label, items}) {
  const [open, setOpen] = useState(false), button = useRef(), box = useRef();
  const close = (back) => { setOpen(false); if (back) button.current?.focus(); };
  useEffect(() => {
    if (!open) return undefined;
    box.current.querySelector('button').focus();
    const away = (e) => { if (!box.current?.contains(e.target) &&
      !button.current?.contains(e.target)) close(false); };
    document.addEventListener('pointerdown', away);
    return () => document.removeEventListener('pointerdown', away);
  }, [open]);
  const onKey = (e) => {
    const all = [...box.current.querySelectorAll('button')],
      at = all.indexOf(document.activeElement);
    const to = {ArrowDown: at + 1, ArrowUp: at - 1 + all.length, Home: 0,
      End: all.length - 1}[e.key];
    if (to !== undefined) { e.preventDefault(); all[to % all.length].focus(); }
    if (e.key === 'Escape') { e.preventDefault(); e.stopPropagation(); close(true); }
    if (e.key === 'Tab') close(false);
  };
  return html`<span class="menu">
    <button type="button" class="icon" ref=${button} aria-label=${label} title=${label}
    aria-haspopup="menu" aria-expanded=${open} onClick=${() => setOpen(!open)}>
    <${Icon} name="more"/></button>
    ${open ? html`<div class="popup" role="menu" aria-label=${label} ref=${box} onKeyDown=${onKey}>
      ${items.map(([icon, text, act]) =>
      html`<button type="button" role="menuitem" tabindex="-1"
      onClick=${() => { close(true); act(); }}><${Icon} name=${icon}/>${text}</button>`)}
      </div>` : null}</span>`;
}
