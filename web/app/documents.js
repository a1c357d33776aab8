// The collections of documents: their files, what became of each, new ones, and what is removed.
import {html, useEffect, useRef, useState} from '../vendor/vendor.js';
import {ask, get} from './api.js';
import {IconButton} from './icons.js';
import {loadStores} from './chats.js';
import {addFiles, limit, reading, removeFile, removeUpload, uploads} from './uploads.js';
import {say, stores} from './state.js';
import {inWords} from './trouble.js';
import {bytes, many, percent, t} from './i18n.js';

const guard = (work) => work.catch((e) => say(inWords(e).filter(Boolean).join(' ')));
const STATES = {completed: 'ready', in_progress: 'being read', failed: 'could not be read',
  cancelled: 'stopped'};

function Files({store}) {
  const [files, setFiles] = useState(null), picker = useRef(),
    mine = uploads.value.filter((u) => !u.chat && u.store === store.id && u.state !== 'ready');
  const load = () => guard(get(`/v1/vector_stores/${store.id}/files?limit=100`).then((page) =>
    setFiles(page.data)));
  useEffect(() => { load(); }, [store.id, store.file_counts.total, store.file_counts.completed]);
  return html`<div class="files">
    <ul>${(files ?? []).map((f) =>
    html`<li><span>${f.filename ?? f.id}
    <small>${bytes(f.usage_bytes ?? 0)}, ${f.last_error?.message ?? t(STATES[f.status] ?? f.status)}
    </small></span>
      <${IconButton} icon="bin" label=${t('Delete {name}', {name: f.filename ?? f.id})}
        onClick=${() => guard(removeFile(f.id).then(load))}/></li>`)}
      ${mine.map((u) => html`<li class=${u.state}>
        <span>${u.name}<small role="status">${u.state === 'sending' ?
        t('{n} sent', {n: percent(u.part)}) : u.state === 'reading' ? reading(u) : u.why}
        </small></span>
        <${IconButton} icon="close" label=${t('Remove {name}', {name: u.name})}
          onClick=${() => removeUpload(u)}/></li>`)}</ul>
    <button type="button" onClick=${() => picker.current.click()}>${t('Add files')}</button>
      <input type="file" multiple hidden ref=${picker}
      aria-label=${t('Files for {name}', {name: store.name || store.id})}
      onChange=${(e) => { addFiles([...e.target.files], null, store.id); e.target.value = ''; }}/>
      </div>`;
}

export function Documents() {
  const add = (e) => {
    e.preventDefault();
    const form = e.currentTarget, name = new FormData(form).get('name').trim();
    if (name) guard(ask('POST', '/v1/vector_stores', {name}).then(() => {
      form.reset(); return loadStores();
    }));
  };
  useEffect(() => { guard(loadStores()); }, []);
  return html`<div class="panel-body" tabindex="0" role="region" aria-label=${t('Documents')}>
    ${stores.value.length ?
      null : html`<p>${t('There is no collection yet. Make one, and put files into it.')}</p>`}
    ${stores.value.map((s) =>
      html`<details class="field collection" key=${s.id}>
      <summary>${s.name || s.id} <small>${many(s.file_counts.total, '1 file', '{n} files')}</small>
      </summary><${Files} store=${s}/></details>`)}
    ${limit() ? html`<p class="note">${limit()}</p>` : null}
    <form class="row" onSubmit=${add}>
      <input name="name" required maxlength="100" aria-label=${t('Name of a new collection')}
      placeholder=${t('Name')}/><button>${t('Make')}</button></form></div>`;
}
