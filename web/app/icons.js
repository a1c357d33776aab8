// Icons: paths of a 24 x 24 box. Each stands in a button that has a name.
import {html} from '../vendor/vendor.js';

const PATHS = {
  menu: 'M4 7h16M4 12h16M4 17h10',
  plus: 'M12 5v14M5 12h14',
  find: 'M17 11a6 6 0 1 1-12 0 6 6 0 0 1 12 0m3 9-4.5-4.5',
  doc: 'M7 3h7l4 4v14H7zM14 3v4h4M10 12h5M10 16h5',
  chart: 'M4 20V4M4 20h16M8 16v-4M12 16V8M16 16v-6',
  tune: 'M4 7h9M17 7h3M4 17h3M11 17h9M17 7a2 2 0 1 1-4 0 2 2 0 0 1 4 0' +
    'M11 17a2 2 0 1 1-4 0 2 2 0 0 1 4 0',
  close: 'm6 6 12 12M18 6 6 18',
  copy: 'M10 8h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-8a2 2 0 0 1-2-2v-8a2 2 0 0 1 2-2M16 8V4H4v12h4',
  again: 'M20 12a8 8 0 1 1-2.5-5.8M20 4v4h-4',
  edit: 'M4 20h4L19 9l-4-4L4 16zM13 7l4 4',
  up: 'M7 20H4v-9h3zm0-9 4-8c1.5 0 2.5 1 2.5 2.5V9H19a2 2 0 0 1 2 2.3l-1 7A2 2 0 0 1 18 20H7',
  down: 'M17 4h3v9h-3zm0 9-4 8c-1.5 0-2.5-1-2.5-2.5V15H5a2 2 0 0 1-2-2.3l1-7A2 2 0 0 1 6 4h11',
  clip: 'm20 11-8.5 8.5a5 5 0 0 1-7-7L13 4a3.5 3.5 0 0 1 5 5l-8.5 8.5a1.8 1.8 0 0 1-2.5-2.5L15 7',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M8 8h8v8H8z',
  branch: 'M7 7v10M9 5a2 2 0 1 1-4 0 2 2 0 0 1 4 0M9 19a2 2 0 1 1-4 0 2 2 0 0 1 4 0' +
    'M19 8a2 2 0 1 1-4 0 2 2 0 0 1 4 0M17 10c0 4-10 2-10 6',
  more: 'M5.5 12h1M11.5 12h1M17.5 12h1',
  before: 'm14 6-6 6 6 6',
  after: 'm10 6 6 6-6 6',
  pin: 'M9 4h6l-1 6 3 3H7l3-3zM12 13v7',
  bin: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  save: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  up1: 'm6 15 6-6 6 6',
  down1: 'm6 9 6 6 6-6',
  toEnd: 'M12 5v13M6 12l6 6 6-6',
  wrench: 'M14 6a4 4 0 0 0 5 5l-8 8a2.8 2.8 0 0 1-4-4l8-8z',
};

export const Icon = ({name}) =>
  html`<svg viewBox="0 0 24 24" aria-hidden="true">
  <path d=${PATHS[name]} stroke-width=${name === 'more' ? 3 : null}/></svg>`;

export const IconButton = ({icon, label, ...more}) =>
  html`<button type="button" class="icon" aria-label=${label} title=${label} ...${more}>
  <${Icon} name=${icon}/></button>`;
