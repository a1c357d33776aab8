// The panel at the side; on a phone a sheet from below. Closing it gives the focus back.
import {html, useEffect} from '../vendor/vendor.js';
import {Documents} from './documents.js';
import {IconButton} from './icons.js';
import {Settings} from './settings.js';
import {SourcePanel} from './sources.js';
import {focusSoon, panel} from './state.js';
import {t} from './i18n.js';

export function closePanel() {
  const {opener} = panel.value ?? {};
  panel.value = null;
  if (opener?.isConnected) focusSoon(() => opener);
}

export function Panel() {
  const p = panel.value, isOpen = !!p;
  useEffect(() => { if (isOpen) document.getElementById('close-panel')?.focus(); },
    [isOpen, p?.kind, p?.n]);
  if (!p) return null;
  const title = p.kind === 'source' ? t('Source {n}', {n: p.n}) : p.kind === 'documents' ?
    t('Documents') : t('This chat');
  return html`<aside id="panel" aria-label=${title}>
    <div class="panel-head"><h2>${title}</h2>
    <${IconButton} id="close-panel" icon="close" label=${t('Close the side panel')}
    onClick=${closePanel}/></div>
    ${p.kind === 'source' ? html`<${SourcePanel} sources=${p.sources} n=${p.n}/>` :
      p.kind === 'documents' ? html`<${Documents}/>` : html`<${Settings}/>`}</aside>`;
}
