// Makes the bundles of this folder from the packages of package-lock.json: `npm ci && node build.mjs [FOLDER]`.
// test/e2e/test_vendor.py builds into another folder and compares bytes.
import {build} from 'esbuild';
import {copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

const here = dirname(fileURLToPath(import.meta.url)), out = process.argv[2] ?? here;
const LANGUAGES = ['bash', 'c', 'cpp', 'diff', 'javascript', 'json',
                   'python', 'rust', 'sql', 'typescript', 'xml', 'yaml'];
const ENTRIES = {
  vendor: `export {h, render, Fragment, options} from 'preact';
export {useState, useEffect, useLayoutEffect, useRef, useMemo} from 'preact/hooks';
export {signal, computed, effect, batch} from '@preact/signals';
export {Marked} from 'marked';
import {h} from 'preact';
import htm from 'htm';
export const html = htm.bind(h);`,
  hljs: `import hljs from 'highlight.js/lib/core';
${LANGUAGES.map((l) => `import ${l} from 'highlight.js/lib/languages/${l}';`).join('\n')}
for (const [name, make] of Object.entries({${LANGUAGES.join(', ')}})) hljs.registerLanguage(name, make);
export default hljs;`,
  katex: "export {render} from 'katex';",
  uplot: "export {default} from 'uplot';",
};
// The packages whose code is in a bundle, for LICENSES.
const PACKAGES = ['preact', '@preact/signals', '@preact/signals-core', 'htm', 'marked', 'highlight.js', 'katex', 'uplot'];

mkdirSync(join(out, 'fonts'), {recursive: true});
for (const [name, contents] of Object.entries(ENTRIES))
  await build({stdin: {contents, resolveDir: here}, outfile: join(out, name + '.js'), bundle: true, minify: true,
               format: 'esm', target: 'es2021', legalComments: 'none', charset: 'utf8'});

// KaTeX's sheet with its woff2 fonts alone: each browser that runs this page reads them.
const css = readFileSync(join(here, 'node_modules/katex/dist/katex.min.css'), 'utf8');
writeFileSync(join(out, 'katex.css'), css.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)/g, '') + '\n');
for (const f of readdirSync(join(here, 'node_modules/katex/dist/fonts')).filter((f) => f.endsWith('.woff2')))
  copyFileSync(join(here, 'node_modules/katex/dist/fonts', f), join(out, 'fonts', f));
copyFileSync(join(here, 'node_modules/uplot/dist/uPlot.min.css'), join(out, 'uplot.css'));

const licences = PACKAGES.map((name) => {
  const folder = join(here, 'node_modules', name), {version, license} = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), 'utf8').trim() : 'No licence file in the package.'}\n`;
});
writeFileSync(join(out, 'LICENSES'), licences.join('\n' + '-'.repeat(80) + '\n\n'));
