// Words of the interface. English stands in the code; i18n/zh.json maps each English text to
// Chinese.
// {name} in a text is replaced. test/e2e/test_front.py holds the table and the code together.
import {signal} from '../vendor/vendor.js';
import {read, write} from './store.js';

export const LANGUAGES = {en: 'English', zh: '中文'};
const wanted = read('lang') || (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en');
export const lang = signal('en');
let table = {};

export async function setLanguage(to) {
  const response = to === 'en' ? null : await fetch(new URL(`../i18n/${to}.json`, import.meta.url));
  table = response?.ok ? await response.json() : {};
  document.documentElement.lang = to === 'zh' ? 'zh-CN' : to;
  lang.value = to;
}

export async function chooseLanguage(to) {
  write('lang', to);
  await setLanguage(to);
}

export const languageReady = setLanguage(wanted in LANGUAGES ? wanted : 'en').catch(() => {});

export function t(text, values) {
  const said = lang.value === 'en' ? text : table[text] ?? text;
  return values ? said.replace(/\{(\w+)\}/g, (all, name) => name in values ?
    String(values[name]) : all) : said;
}

// The text for one, or for another number.
export const many = (n, one, more, values = {}) =>
  t(n === 1 ? one : more, {n: number(n), ...values});

export const number = (x, digits = 0) =>
  x.toLocaleString(lang.value, {maximumFractionDigits: digits});
export const percent = (x, digits = 0) => `${(100 * x).toFixed(digits)} %`;

export function bytes(n) {
  const at = n < 1e3 ? 0 : n < 1e6 ? 1 : n < 1e9 ? 2 : 3;
  return `${number(n / 1000 ** at, at && n / 1000 ** at < 10 ? 1 : 0)} ${['B', 'KB', 'MB',
    'GB'][at]}`;
}

export function duration(ms) {
  if (ms < 1000) return t('{n} ms', {n: Math.round(ms)});
  const s = ms / 1000;
  if (s < 90) return s < 9.5 ? many(Math.round(s * 10) / 10, '1 second', '{n} seconds',
    {n: number(s, 1)}) : t('{n} seconds', {n: number(s)});
  return t('{n} minutes', {n: number(s / 60)});
}
