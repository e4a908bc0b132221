// The sandbox's page. It uses the same JSON API as everybody else, under /_sandbox.
// Whatever an application sent gets into the page as text nodes, never as markup.
'use strict';

const API = '/_sandbox';
const CAP = 1000;            // rows on the page; older ones are a page away
const RETRY_MS = 1000;
const STATS_MS = 15000;      // the chart moves on even when nothing arrives
const SLOTS = 30;            // minutes on the chart

const $ = (id) => document.getElementById(id);
const narrow = matchMedia('(max-width: 68rem)');
const rows = new Map();      // id → row, the oldest first
const known = new Map();     // id → entry, whatever the search and filter
const places = new Map();    // currency → digits after the point
const state = { lastId: 0, filter: 'all', search: '', before: null, oldest: null, more: false, open: null, active: null, pending: [], loads: 0, loading: false };
let kinds = [];               // of event, as the contract names them
let faults = [];

// ---- small helpers

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function debounce(task, milliseconds) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => { timer = null; task(); }, milliseconds);
  };
}

async function api(path, method = 'GET', body = undefined) {
  const options = { method };
  if (method !== 'GET') {
    options.headers = { 'Content-Type': 'application/json' };
    options.body = JSON.stringify(body ?? {});
  }
  const response = await fetch(API + path, options).catch(() => { throw new Error('The sandbox does not answer.'); });
  const isJson = (response.headers.get('Content-Type') ?? '').includes('json');
  const answer = isJson ? await response.json() : await response.text();
  if (!response.ok) throw new Error(reason(answer) ?? `The sandbox answered ${response.status}.`);
  return answer;
}

function reason(answer) {
  if (!answer?.error) return null;
  const details = answer.details && typeof answer.details === 'object' ? Object.entries(answer.details) : [];
  return [answer.error, ...details.map(([name, what]) => `${name} ${what}.`)].join(' ');
}

// Runs what may fail for the lack of a server; the stream notices the loss and connects again.
function attempt(task) {
  return task().then(() => { $('problem').textContent = ''; }, (error) => { $('problem').textContent = error.message; });
}

function link(text, action, attributes = {}) {
  return h('button', { type: 'button', class: 'link', onclick: action, ...attributes }, text);
}

function say(sentence) {
  $('announcer').textContent = sentence;
}

async function copy(button, source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {  // no permission, or a page that is not served from this machine
    getSelection().selectAllChildren(source);
    document.execCommand('copy');
  }
  button.textContent = 'Copied';
  say('Copied');
  setTimeout(() => { button.textContent = 'Copy'; }, 2000);
}

// ---- words and numbers

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

function time(text) {
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  return h('time', { datetime: text, title: date.toLocaleString() }, (today ? clock : day).format(date).replace(',', ''));
}

function digitsAfterPoint(currency) {
  if (!places.has(currency)) {
    try {
      places.set(currency, new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits);
    } catch {
      return 2;  // not a currency
    }
  }
  return places.get(currency);
}

function amount(entry) {
  if (!Number.isSafeInteger(entry.amount) || entry.amount < 0) return String(entry.amount);
  const digits = digitsAfterPoint(entry.currency);
  const text = String(entry.amount).padStart(digits + 1, '0');
  return grouped(digits ? `${text.slice(0, -digits)}.${text.slice(-digits)}` : text);
}

const grouped = (number) => number.replace(/\d+/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, ','));

function money(entry) {
  if (entry.amount === null || entry.amount === undefined) return [];
  return [amount(entry), ' ', h('span', { class: 'currency' }, entry.currency ?? '')];
}

const isRefused = (entry) => entry.status >= 400;
const capital = (word) => word[0].toUpperCase() + word.slice(1);
const kindName = (entry) => (entry.kind ? capital(entry.kind) : 'Other');
const faultMark = (kind) => (kind === 'status' ? 'fault' : `fault: ${kind.replaceAll('_', ' ')}`);

function statusBadge(entry) {
  const label = entry.status === 0 ? 'dropped' : String(entry.status);
  return h('span', { class: `badge ${isRefused(entry) || entry.status === 0 ? 'bad' : 'good'}` }, label);
}

function marks(entry) {
  const found = [];
  const mark = (look, text, title) => found.push(h('span', { class: `badge ${look}`, title }, text));
  if (entry.fault) mark('violet', faultMark(entry.fault), 'A fault was set');
  if (entry.duplicate) mark('warn', 'duplicate', 'Recorded before; did not count again');
  if (entry.replayed) mark('warn', 'replayed', 'The same idempotency key got the first answer again');
  if (entry.mode === 'deferred') mark('blue', 'deferred', 'Stores the click; counts no lead yet');
  else if (entry.deferred) mark('blue', 'via stored click', 'Credited to the click that a deferred lead stored');
  return found;
}

function verdict(entry) {
  const sentences = [];
  const add = (applies, sentence) => { if (applies) sentences.push(sentence); };
  add(entry.status === 0, 'No answer was sent.');
  add(entry.replayed, 'It had come before, so the first answer was given again.');
  add(entry.duplicate && !entry.replayed, 'It had been recorded before and did not count again.');
  add(isRefused(entry) && entry.answer?.error, entry.answer?.error);
  add(entry.mode === 'deferred' && entry.status === 200 && !entry.duplicate, 'The click is stored for this customer; no lead is counted yet.');
  add(entry.counted, entry.deferred ? 'It counted, for the click that a deferred lead had stored.' : 'It counted.');
  return sentences.join(' ');
}

// ---- the list

function makeRow(entry) {
  const cell = (name, ...children) => h('div', { role: 'gridcell', class: name }, ...children);
  return h('div', { role: 'row', class: 'row', id: `event-${entry.id}`, tabindex: '-1', 'aria-selected': String(entry.id === state.open) },
    cell('time', time(entry.received_at)),
    cell(`kind ${entry.kind}`, kindName(entry)),
    cell('event', entry.event_name ?? '—'),
    cell('customer',
      entry.customer_name ? `${entry.customer_name} ` : null,
      h('span', { class: 'id' }, entry.customer_external_id ?? '—')),
    cell('amount number', ...money(entry)),
    cell('status', statusBadge(entry)),
    cell('marks', ...marks(entry)));
}

const idOf = (row) => Number(row.id.slice('event-'.length));

function matches(entry) {
  if (state.filter === 'refused' ? !isRefused(entry) : state.filter !== 'all' && entry.kind !== state.filter) return false;
  return !state.search || searchable(entry).includes(state.search.toLowerCase());
}

function searchable(entry) {
  return [entry.event_name, entry.customer_external_id, entry.customer_name, entry.payload?.customerEmail, entry.click_id,
    entry.invoice_id, entry.idempotency_key, entry.request_id].join('\n').toLowerCase();
}

function query() {
  const asked = new URLSearchParams({ limit: CAP });
  if (kinds.includes(state.filter)) asked.set('kind', state.filter);
  if (state.search) asked.set('search', state.search);
  if (state.before) asked.set('before', state.before);
  return asked;
}

// What the stream brings meanwhile waits in state.pending, and is not lost when the list is replaced.
async function load() {
  const mine = ++state.loads;
  state.loading = true;
  try {
    const answer = await api(`/events?${query()}`);
    if (mine === state.loads) replaceRows(answer);  // else a later search has overtaken this one
  } finally {
    if (mine === state.loads) state.loading = false;
  }
  flush();
}

function replaceRows(answer) {
  state.lastId = answer.last_id;
  state.oldest = answer.events[0]?.id ?? null;
  state.more = answer.events.length === CAP;
  rows.clear();
  $('rows').replaceChildren();
  addRows(answer.events.filter(matches));
  refreshStats();
}

function addRows(entries, look = null) {
  const fragment = document.createDocumentFragment();
  for (const entry of entries.slice(-CAP)) {
    const row = makeRow(entry);
    if (look) row.classList.add(look);
    remember(entry);
    rows.set(entry.id, row);
    fragment.prepend(row);
  }
  $('rows').prepend(fragment);
  for (const [id, row] of rows) {
    if (rows.size <= CAP) break;
    row.remove();
    rows.delete(id);
    state.oldest = rows.keys().next().value;
    state.more = true;
  }
  if (!rows.has(state.active) || (state.open === null && !$('rows').contains(document.activeElement))) activate($('rows').firstChild);
  showCount();
  showPager();
}

function remember(entry) {
  known.set(entry.id, entry);
  if (known.size > 2 * CAP) known.delete(known.keys().next().value);
}

function flush() {
  if (state.loading) return;
  const fresh = state.pending.splice(0).filter((entry) => entry.id > state.lastId).slice(-CAP);
  if (!fresh.length) return;
  state.lastId = fresh.at(-1).id;
  fresh.forEach(remember);
  const shown = state.before ? [] : fresh.filter(matches);
  addRows(shown, 'fresh');
  if (shown.length) announce(shown);
  const shownEntry = known.get(state.open);
  if (shownEntry && fresh.some((entry) => entry.customer_external_id === shownEntry.customer_external_id)) showPath(shownEntry);
  refreshStats();
}

let frame = null;
function receive(entry) {
  state.pending.push(entry);
  if (state.pending.length > 2 * CAP) state.pending.splice(0, CAP);  // a hidden page draws no frames
  frame ??= requestAnimationFrame(() => { frame = null; flush(); });
}

let unsaid = 0;
function announce(entries) {
  if (!unsaid) setTimeout(() => { say(`${unsaid} new ${unsaid === 1 ? 'event' : 'events'}, the last: ${describe(known.get(state.lastId))}`); unsaid = 0; }, 500);
  unsaid += entries.length;
}

function describe(entry) {
  if (!entry) return 'an event';
  const result = entry.status === 0 ? 'dropped' : `status ${entry.status}`;
  return `${kindName(entry)} ${entry.event_name ?? ''} of ${entry.customer_external_id ?? 'nobody'}, ${result}`;
}

function showCount() {
  const filtered = state.filter !== 'all' || state.search !== '' || state.before !== null;
  $('grid').hidden = rows.size === 0;
  $('nothing').hidden = rows.size > 0 || !filtered || state.before !== null;
  $('empty').hidden = rows.size > 0 || filtered;
  $('shown').textContent = rows.size ? `${rows.size.toLocaleString('en')} ${rows.size === 1 ? 'event' : 'events'}` : '';
}

function showPager() {
  $('pager').hidden = !state.more && state.before === null;
  $('older').disabled = !state.more;
  $('newest').disabled = state.before === null;
  $('pager-text').textContent = state.before === null ? 'These are the newest events.' : state.oldest ? 'These are older events.' : 'There are no older events.';
}

function choose(changes) {
  Object.assign(state, { before: null }, changes);
  if ($('search').value.trim() !== state.search && 'search' in changes) $('search').value = state.search;
  document.querySelector(`#filters [value="${state.filter}"]`).checked = true;
  return attempt(load);
}

// ---- the keyboard in the list: one row is in the tab order, arrows move it

function activate(row, focus = false) {
  rows.get(state.active)?.setAttribute('tabindex', '-1');
  if (!row) return;
  state.active = idOf(row);
  row.setAttribute('tabindex', '0');
  if (!focus) return;
  row.focus();
  if (state.open !== null && !narrow.matches) open(state.active);
}

function onRowKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const row = event.target.closest('.row');
  const all = [...$('rows').children];
  const here = all.indexOf(row);
  const target = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + 10, PageUp: here - 10, Home: 0, End: all.length - 1 }[event.key];
  if (event.key === 'Enter' || event.key === ' ') open(idOf(row));
  else if (target !== undefined) activate(all[Math.max(0, Math.min(target, all.length - 1))], true);
  else return;
  event.preventDefault();
}

function onKey(event) {
  const typing = event.target.matches('input, select');
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $('search').focus();
  } else if (event.key === 'Escape' && state.open !== null && !$('reset-dialog').open && !(typing && event.target.value && event.target.type === 'search')) {
    closePanel();
  }
}

// ---- the details of one event

const open = (id) => attempt(() => show(id));

async function show(id) {
  const entry = known.get(id) ?? (await api(`/events?after=${id - 1}&limit=1`)).events[0];
  if (!entry) return;
  remember(entry);
  rows.get(state.open)?.setAttribute('aria-selected', 'false');
  state.open = entry.id;
  const row = rows.get(entry.id);
  row?.setAttribute('aria-selected', 'true');
  activate(row);
  const wasHidden = $('panel').hidden;
  showPanel(true);
  $('panel-title').textContent = entry.event_name ?? 'No event name';
  $('panel-body').replaceChildren(...details(entry));
  $('panel-body').scrollTop = 0;
  if (narrow.matches && wasHidden) $('panel-title').focus();
  row?.scrollIntoView({ block: 'nearest' });
  await Promise.all([showPath(entry), showCurl(entry)]);
}

function showPanel(visible) {
  $('panel').hidden = !visible;
  document.querySelector('.workspace').classList.toggle('split', visible);
  coverPage();
}

// On a narrow window the panel lies over the page, whose rest must not take the focus.
function coverPage() {
  const covers = narrow.matches && !$('panel').hidden;
  for (const part of document.querySelectorAll('.top, .faults, .overview, main')) part.inert = covers;
  for (const [name, value] of [['role', 'dialog'], ['aria-modal', 'true']]) {
    if (covers) $('panel').setAttribute(name, value);
    else $('panel').removeAttribute(name);
  }
}

function hidePanel() {
  rows.get(state.open)?.setAttribute('aria-selected', 'false');
  state.open = null;
  showPanel(false);
}

function closePanel() {
  const row = rows.get(state.open);
  hidePanel();
  (row ?? $('search')).focus();
}

function section(title, ...children) {
  return h('section', {}, h('h3', {}, title), ...children);
}

function definitions(pairs, look) {
  const given = pairs.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return h('dl', { class: `facts ${look}` }, ...given.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

function details(entry) {
  const money = entry.amount === null ? null : `${amount(entry)} ${entry.currency ?? ''}`;
  return [
    h('div', { class: 'verdict' },
      h('span', { class: `kind ${entry.kind}` }, kindName(entry)), statusBadge(entry),
      entry.type ? h('code', {}, entry.type) : null, ...marks(entry), h('p', {}, verdict(entry))),
    h('div', { id: 'path' }),
    definitions([
      ['Received', time(entry.received_at)], ['Customer', entry.customer_name], ['Amount', money],
      ['Invoice', entry.invoice_id], ['Idempotency key', entry.idempotency_key], ['Request id', entry.request_id],
    ], 'event-facts'),
    entry.payload === null ? section('Body', h('pre', {}, entry.body || '(empty)')) : section('Payload', json(entry.payload)),
    section('Answer', entry.answer === null ? h('p', { class: 'muted' }, 'None was sent.') : json(entry.answer)),
    h('section', { id: 'curl' },
      h('div', { class: 'section-head' }, h('h3', {}, 'Send it again with curl'), h('button', { type: 'button', onclick: copyCurl }, 'Copy')),
      h('pre', {}, '…')),
    headers('Request headers', entry.request_headers),
    headers('Answer headers', entry.answer_headers),
    entry.payload === null ? '' : h('details', {}, h('summary', {}, 'Body as it was sent'), h('pre', {}, entry.body)),
  ];
}

function headers(title, found) {
  return h('details', {}, h('summary', {}, title), definitions(Object.entries(found ?? {}), 'headers'));
}

const TOKENS = /("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

function json(value) {
  if (typeof value === 'string') return h('pre', {}, value);
  const text = JSON.stringify(value, null, 2);
  const pre = h('pre', {});
  let end = 0;
  for (const token of text.length < 50000 ? text.matchAll(TOKENS) : []) {
    const [all, string, colon] = token;
    const look = colon ? 'json-key' : string ? 'json-string' : 'json-literal';
    pre.append(text.slice(end, token.index), h('span', { class: look }, string ?? all), colon ?? '');
    end = token.index + all.length;
  }
  pre.append(text.slice(end));
  return pre;
}

async function showCurl(entry) {
  const command = await api(`/events/${entry.id}/curl`).catch((error) => error.message);
  if (state.open === entry.id) $('curl').querySelector('pre').textContent = command;
}

function copyCurl(event) {
  return copy(event.target, $('curl').querySelector('pre'));
}

// ---- click → customer → events

async function showPath(entry) {
  const clicks = await api('/clicks').catch(() => []);
  const click = clicks.find((each) => each.click_id === entry.click_id);
  const customer = click?.customers.find((each) => each.customer_external_id === entry.customer_external_id);
  const ids = (customer?.event_ids ?? []).slice(-50);
  if (ids.some((id) => !known.has(id))) await learn(entry.customer_external_id);
  if (state.open === entry.id) $('path').replaceChildren(path(entry, click, customer, ids));
}

async function learn(customer) {
  const answer = await api(`/events?${new URLSearchParams({ search: customer, limit: 200 })}`).catch(() => ({ events: [] }));
  answer.events.forEach(remember);
}

function path(entry, click, customer, ids) {
  const others = (click?.customers.length ?? 1) - 1;
  const find = (text) => () => { if (narrow.matches) closePanel(); choose({ search: text, filter: 'all' }); };
  const steps = h('ol', {}, ...ids.map((id) => step(kindName(known.get(id) ?? entry), eventLink(id, entry.id))));
  const remark = entry.counted ? null : h('span', { class: 'muted' }, 'did not count');
  if (!ids.includes(entry.id)) steps.append(step('This', eventLink(entry.id, entry.id), remark));
  const middle = entry.customer_external_id === null ? steps : h('ol', {}, h('li', {},
    ...step('Customer', link(entry.customer_external_id, find(entry.customer_external_id)),
      customer?.deferred ? h('span', { class: 'muted' }, 'stored by a deferred lead') : null).childNodes, steps));
  const start = entry.click_id === null
    ? step('Click', h('span', { class: 'muted' }, 'none'))
    : step('Click', link(entry.click_id, find(entry.click_id)), others > 0 ? h('span', { class: 'muted' }, `and ${others} more ${others === 1 ? 'customer' : 'customers'}`) : null);
  start.append(middle);
  return section('From click to event', h('ol', { class: 'path' }, start));
}

function step(name, ...what) {
  return h('li', {}, h('div', { class: 'step' }, h('span', {}, name), ...what));
}

function eventLink(id, current) {
  const entry = known.get(id);
  const text = entry ? [entry.event_name, ...(entry.amount === null ? [] : [`${amount(entry)} ${entry.currency ?? ''}`])].join(', ') : `Event ${id}`;
  return link(text, () => open(id), id === current ? { 'aria-current': 'true' } : {});
}

// ---- counters, revenue, chart

async function loadStats() {
  const stats = await api('/stats');
  const names = [...kinds.map((kind) => `${kind}s`), 'refused', 'duplicates', 'deferred_clicks'];
  for (const name of names) $(`count-${name}`).textContent = stats[name].toLocaleString('en');
  $('count-refused').parentElement.classList.toggle('alarm', stats.refused > 0);
  stats.revenue.forEach((each) => places.set(each.currency, each.exponent));
  $('revenue').replaceChildren(...stats.revenue.map((each) => h('li', {}, h('span', {}, each.currency), h('span', {}, grouped(each.display)))));
  $('no-revenue').hidden = stats.revenue.length > 0;
  drawChart(stats.per_minute);
}

const refreshStats = debounce(() => attempt(loadStats), 150);

function drawChart(perMinute) {
  const counts = new Map(perMinute.map((each) => [minuteOf(each.minute), each.count]));
  const now = Math.max(minuteOf(new Date()), ...counts.keys());
  const minutes = Array.from({ length: SLOTS }, (_, index) => now - SLOTS + 1 + index);
  const bars = minutes.map((minute) => ({ minute, count: counts.get(minute) ?? 0 }));
  const total = bars.reduce((sum, bar) => sum + bar.count, 0);
  const peak = Math.max(...bars.map((bar) => bar.count));
  const text = total ? `${total.toLocaleString('en')} in 30 minutes, at most ${peak.toLocaleString('en')} a minute` : 'None in the last 30 minutes';
  $('chart').replaceChildren(...bars.map((bar, index) => drawBar(bar, index, Math.max(peak, 4))));
  $('chart').setAttribute('aria-label', `Events a minute: ${text}`);
  $('chart-peak').textContent = text;
  $('chart-rows').replaceChildren(...bars.filter((bar) => bar.count).reverse().map((bar) => h('tr', {}, h('td', {}, minuteText(bar.minute)), h('td', {}, String(bar.count)))));
}

const minuteOf = (date) => Math.floor(new Date(date).getTime() / 60000);
const minuteText = (minute) => clock.format(new Date(minute * 60000)).slice(0, 5);

function drawBar(bar, index, scale) {
  const svg = (tag) => document.createElementNS('http://www.w3.org/2000/svg', tag);
  const height = bar.count ? Math.max(3, (bar.count / scale) * 64) : 1;
  const rect = svg('rect');
  const shape = { x: index * 12 + 1.5, y: 64 - height, width: 9, height, class: bar.count ? 'bar' : 'base' };
  for (const [name, value] of Object.entries(shape)) rect.setAttribute(name, value);
  const title = svg('title');
  title.textContent = `${minuteText(bar.minute)}: ${bar.count}`;
  rect.append(title);
  return rect;
}

// ---- faults

async function setFaults(wanted) {
  $('fault-problem').textContent = '';
  try {
    showFaults((await api('/faults', 'PUT', { faults: wanted })).faults);
  } catch (error) {
    $('fault-problem').textContent = error.message;
  }
}

// The button that was pressed is gone, and with it the focus.
async function removeFault(index) {
  await setFaults(faults.filter((_, each) => each !== index));
  ($('active-faults').querySelector('button') ?? $('faults-toggle')).focus();
}

function showFaults(active) {
  faults = active;
  $('active-faults').replaceChildren(...active.map((fault, index) => h('li', {}, faultText(fault),
    h('button', { type: 'button', 'aria-label': `Remove ${faultText(fault)}`, onclick: () => removeFault(index) }, 'Remove'))));
  $('no-faults').hidden = active.length > 0;
  $('clear-faults').hidden = active.length === 0;
  $('faults-toggle').textContent = active.length ? `Faults (${active.length})` : 'Faults';
  $('faults-toggle').classList.toggle('armed', active.length > 0);
}

function faultText(fault) {
  const wait = fault.retry_after ? `, Retry-After ${fault.retry_after}` : '';
  const what = {
    status: `Status ${fault.status}${wait}`, delay: `${fault.seconds} s late`, drop_before: 'Breaks before recording',
    drop_after: 'Breaks after recording', html_502: 'HTML page, 502', silence: 'No answer',
  }[fault.kind] ?? fault.kind;
  const left = fault.times === null || fault.times === undefined ? '' : ` · ${fault.times} ${fault.times === 1 ? 'call' : 'calls'} left`;
  const chance = fault.probability === null || fault.probability === undefined ? '' : ` · ${+(fault.probability * 100).toFixed(2)} % of calls`;
  return what + (left + chance || ' · every call');
}

function readFault(form) {
  const value = (name) => (form.elements[name].disabled ? null : form.elements[name].value.trim());
  const number = (name) => (value(name) === null ? null : Number(value(name)));
  const fault = { kind: value('kind'), times: number('times'), probability: number('percent') && number('percent') / 100 };
  if (number('status')) Object.assign(fault, { status: number('status'), retry_after: value('retry_after') || null });
  if (number('seconds') !== null) fault.seconds = number('seconds');
  return fault;
}

function fitFaultForm() {
  const form = $('fault-form');
  for (const field of form.querySelectorAll('[data-for]')) {
    const needed = field.dataset.for.split(' ');
    field.hidden = !needed.includes(form.elements.kind.value) && !needed.includes(form.elements.often.value);
    field.querySelector('input').disabled = field.hidden;
  }
}

// ---- the connection

function showConnection(name, text) {
  $('connection').dataset.state = name;
  $('connection').textContent = text;
}

// A server that comes back may have forgotten everything, so the list is loaded anew each time.
async function connect() {
  try {
    if (!kinds.length) showKinds(await api('/kinds'));
    await load();
  } catch {
    reconnect();
    return;
  }
  const stream = new EventSource(`${API}/stream?after=${state.lastId}`);
  stream.onopen = () => { showConnection('live', 'Live'); $('problem').textContent = ''; };
  stream.onerror = () => { stream.close(); reconnect(); };
  stream.addEventListener('event', (message) => receive(JSON.parse(message.data)));
  stream.addEventListener('reset', startOver);
  stream.addEventListener('faults', (message) => showFaults(JSON.parse(message.data).faults));
}

function reconnect() {
  showConnection('reconnecting', 'Reconnecting');
  setTimeout(connect, RETRY_MS);
}

function startOver() {
  state.pending.length = 0;
  known.clear();
  if (state.open !== null) hidePanel();
  return choose({});
}

// ---- the beginning

// A counter and a filter for each kind, before those of what was refused.
function showKinds(found) {
  kinds = found;
  for (const kind of kinds) {
    const name = `${capital(kind)}s`;
    $('count-refused').parentElement.before(h('div', {}, h('dt', {}, name), h('dd', { id: `count-${kind}s` }, '0')));
    $('filter-refused').before(h('label', {}, h('input', { type: 'radio', name: 'filter', value: kind }), h('span', {}, name)));
  }
}

function showSetup() {
  $('origin').textContent = location.origin;
  $('setup').textContent = [
    `export CMS_HOST=${location.origin}`,
    'export CMS_BEARER_TOKEN=anything',
    `python -c 'from cms_python import CMSClient; print(CMSClient().track_lead("signup", "user_42", "id_123"))'`,
  ].join('\n');
}

function listen() {
  $('rows').addEventListener('click', (event) => {
    const row = event.target.closest('.row');
    if (row && getSelection().isCollapsed) open(idOf(row));
  });
  $('rows').addEventListener('keydown', onRowKey);
  $('rows').addEventListener('focusin', (event) => activate(event.target.closest('.row')));
  document.addEventListener('keydown', onKey);
  $('search').addEventListener('input', debounce(() => choose({ search: $('search').value.trim() }), 150));
  $('filters').addEventListener('change', (event) => choose({ filter: event.target.value }));
  $('show-all').addEventListener('click', () => choose({ search: '', filter: 'all' }));
  $('older').addEventListener('click', () => choose({ before: state.oldest }));
  $('newest').addEventListener('click', () => choose({}));
  $('panel-close').addEventListener('click', closePanel);
  narrow.addEventListener('change', coverPage);
  $('copy-setup').addEventListener('click', (event) => copy(event.target, $('setup')));
  $('faults-toggle').addEventListener('click', (event) => toggle(event.target, $('faults')));
  $('chart-toggle').addEventListener('click', (event) => toggle(event.target, $('chart-table')));
  $('fault-form').addEventListener('change', fitFaultForm);
  $('fault-form').addEventListener('submit', (event) => { event.preventDefault(); setFaults([...faults, readFault(event.target)]); });
  $('clear-faults').addEventListener('click', async () => { await setFaults([]); $('faults-toggle').focus(); });
  $('reset').addEventListener('click', () => $('reset-dialog').showModal());
  $('reset-dialog').addEventListener('close', () => { if ($('reset-dialog').returnValue === 'reset') attempt(() => api('/reset', 'POST')); });
  setInterval(() => { if (!document.hidden) refreshStats(); }, STATS_MS);
}

function toggle(button, part) {
  part.hidden = !part.hidden;
  button.setAttribute('aria-expanded', String(!part.hidden));
}

showSetup();
listen();
fitFaultForm();
connect();
