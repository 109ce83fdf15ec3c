"use strict";
const $ = id => document.getElementById(id);
const LIMIT = 20 * 2 ** 20;             // bytes of an image, as the server's default
let about = {};                         // what the server says of itself
let chosen = null;                      // the image of the query, as a data: address
let like = null;                        // the id of a row whose neighbours are asked for
let asked = null;                       // the query that the grid shows
let newest = 0;                         // only the newest answer is shown
let open = null;                        // the hit in the dialog

// --- light and dark -------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const wanted = localStorage.getItem("theme") || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = wanted;
}
paint();
dark.addEventListener("change", paint);
$("theme").addEventListener("click", () => {
  localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  paint();
});

// --- talking to the server ------------------------------------------------------------------
async function ask(path, body) {
  const how = body ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {};
  let answer;
  try { answer = await fetch(path, how); }
  catch { throw new Error("the server does not answer: is it still running?"); }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ? found.error.message : `the server answers ${answer.status}`);
  return found;
}
const imageOf = (id, size) => `image?${new URLSearchParams({ id, size })}`;
function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

// --- the query ------------------------------------------------------------------------------
function query() {
  const out = { k: Number($("k").value) };
  if (like !== null) out.like = like;
  else {
    if ($("text").value.trim()) out.text = $("text").value;
    if (chosen) out.image = chosen;
  }
  if ($("kind").value) out.kind = $("kind").value;
  if ($("source").value.trim()) out.source = $("source").value.trim();
  if ($("hybrid").checked && out.text) out.hybrid = true;
  return out;
}
async function search(remember = true) {
  const body = query();
  if (!body.text && !body.image && body.like === undefined) return say("Type some words, or give an image.");
  const mine = ++newest;
  $("hits").classList.add("waiting");
  say("searching …");
  const before = performance.now();
  try {
    const found = await ask("search", body);
    if (mine !== newest) return;
    asked = body;
    show(found.hits);
    const time = ((performance.now() - before) / 1000).toFixed(2);
    const what = body.like !== undefined ? `most like ${body.like}` : "best first";
    say(found.hits.length ? `${found.hits.length} hits, ${what}, ${time} s` : "Nothing meets these filters.");
    if (remember) remembered(body);
  } catch (e) { if (mine === newest) say(e.message, true); }
  finally { if (mine === newest) $("hits").classList.remove("waiting"); }
}
function remembered(body) {
  const words = new URLSearchParams();
  for (const name of ["text", "like", "kind", "source", "k"]) if (body[name] !== undefined) words.set(name, body[name]);
  if (body.hybrid) words.set("hybrid", "1");
  const now = body.image ? "" : words.toString();
  if (location.hash.slice(1) !== now) history.pushState(null, "", now ? `#${now}` : location.pathname);
}
function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  $("text").value = words.get("text") || "";
  $("kind").value = words.get("kind") || "";
  $("source").value = words.get("source") || "";
  $("hybrid").checked = words.has("hybrid");
  if (words.get("k")) $("k").value = words.get("k");
  like = words.get("like");
  take(null);
  if ($("text").value || like !== null) search(false);
}
addEventListener("popstate", recall);

function take(address) {
  chosen = address;
  $("chosen").hidden = !address;
  if (address) $("preview").src = address; else $("preview").removeAttribute("src");
  $("text").placeholder = address ? "add words to the image" : "Words, or drop an image here";
}
function takeFile(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return say(`${file.name || "this"} is no image`, true);
  if (file.size > LIMIT) return say(`${file.name || "the image"} has ${(file.size / 2 ** 20).toFixed(0)} MB, more than ${LIMIT / 2 ** 20}`, true);
  const reader = new FileReader();
  reader.onerror = () => say("the image cannot be read", true);
  reader.onload = () => { like = null; take(reader.result); search(); };
  reader.readAsDataURL(file);
}
$("form").addEventListener("submit", e => { e.preventDefault(); like = null; search(); });
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { takeFile($("file").files[0]); $("file").value = ""; });
$("remove").addEventListener("click", () => { take(null); $("text").focus(); });
for (const id of ["kind", "k", "hybrid", "source"]) $(id).addEventListener("change", () => { if (asked) search(); });

let depth = 0; // dragenter and dragleave come for every element
const carries = e => e.dataTransfer && [...e.dataTransfer.types].includes("Files");
addEventListener("dragenter", e => { if (carries(e)) { depth++; $("drop").hidden = false; } });
addEventListener("dragleave", e => { if (carries(e) && --depth <= 0) { depth = 0; $("drop").hidden = true; } });
addEventListener("dragover", e => { if (carries(e)) e.preventDefault(); });
addEventListener("drop", e => {
  if (!carries(e)) return;
  e.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  takeFile(e.dataTransfer.files[0]);
});
addEventListener("paste", e => {
  const file = e.clipboardData && [...e.clipboardData.files].find(f => f.type.startsWith("image/"));
  if (file) { e.preventDefault(); takeFile(file); }
});

// --- hits -----------------------------------------------------------------------------------
function element(kind, name, text) {
  const out = document.createElement(kind);
  if (name) out.className = name;
  if (text !== undefined) out.textContent = text;
  return out;
}
function card(hit, rank) {
  const item = element("li", "hit"), button = element("button", "open"), look = element("div", "look");
  button.type = "button";
  button.setAttribute("aria-label", `hit ${rank}, score ${hit.score.toFixed(3)}: ${hit.text.slice(0, 120) || hit.place || hit.id}`);
  if (hit.has_image) {
    const image = element("img");
    image.loading = "lazy";
    image.alt = "";
    image.src = imageOf(hit.id, "small");
    image.addEventListener("error", () => look.replaceChildren(element("p", "", hit.text || hit.id)));
    look.append(image);
  } else look.append(element("p", "", hit.text.slice(0, 400)));
  button.append(look);
  if (hit.has_image) {
    const said = element("div", "say");
    said.append(element("p", "", hit.text.slice(0, 200)));
    button.append(said);
  }
  button.addEventListener("click", () => detail(hit));
  const foot = element("div", "foot"), more = element("button", "plain", "more");
  const place = element("span", "place", hit.place || hit.id);
  place.title = `${hit.place} (id ${hit.id})`;
  more.type = "button";
  more.title = "more like this";
  more.setAttribute("aria-label", `more like hit ${rank}`);
  more.addEventListener("click", () => moreLike(hit));
  foot.append(element("span", "score", hit.score.toFixed(3)), place, more);
  item.append(button, foot);
  item.hit = hit;
  return item;
}
function show(hits) { $("hits").replaceChildren(...hits.map((hit, i) => card(hit, i + 1))); }
function moreLike(hit) {
  if ($("detail").open) $("detail").close();
  like = hit.id;
  take(null);
  $("text").value = "";
  search().then(() => { scrollTo(0, 0); const first = $("hits").querySelector(".open"); if (first) first.focus(); });
}

// --- one hit: its image, its text, what matched ---------------------------------------------
async function detail(hit) {
  open = hit;
  $("detail-title").textContent = `${hit.place || hit.id} · ${hit.score.toFixed(3)}`;
  $("full").textContent = hit.text;
  $("figure").hidden = !hit.has_image;
  $("matched").hidden = true;
  $("heat").hidden = true;
  $("large").className = "";
  if (hit.has_image) { $("large").src = imageOf(hit.id, "large"); $("large").alt = hit.text.slice(0, 200) || hit.id; }
  $("detail").showModal();
  if (!(hit.has_image && about.multi_vector && asked && (asked.text || asked.image))) return;
  $("matched").hidden = false;
  $("tokens").replaceChildren();
  $("matched-note").textContent = "looking at what matched …";
  try {
    const found = await ask("heatmap", { id: hit.id, text: asked.text || "", image: asked.image || null });
    if (open === hit) matched(found);
  } catch (e) { if (open === hit) $("matched-note").textContent = e.message; }
}
$("large").addEventListener("load", () => { // a small image is shown larger, a large one fits the window
  const image = $("large"), room = Math.min(innerWidth - 80, 880);
  const scale = Math.min(room / image.naturalWidth, .6 * innerHeight / image.naturalHeight, 3);
  image.style.width = `${Math.round(scale * image.naturalWidth)}px`;
});
function matched(found) {
  $("matched-note").textContent = "Where the tokens of the query find their like: bright is similar.";
  const buttons = found.maps.map(map => {
    const button = element("button", "plain", map.token);
    button.type = "button";
    button.title = `best ${map.best.toFixed(2)}`;
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      draw(map.grid);
    });
    button.setAttribute("aria-pressed", "false");
    return button;
  });
  $("tokens").replaceChildren(...buttons);
  buttons[0].click();
}
const INFERNO = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
function colour(x) {
  const at = Math.min(Math.max(x, 0), 1) * (INFERNO.length - 1), i = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[i].map((c, j) => c + (at - i) * (INFERNO[i + 1][j] - c));
}
function draw(grid) {
  const canvas = $("heat"), all = grid.flat(), low = Math.min(...all), span = Math.max(...all) - low || 1;
  canvas.height = grid.length;
  canvas.width = grid[0].length;
  const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
  all.forEach((x, i) => pixels.data.set([...colour((x - low) / span), 255], 4 * i));
  context.putImageData(pixels, 0, 0);
  canvas.hidden = false;
  $("large").className = "beneath";
}
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", e => { if (e.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("close", () => { open = null; });
$("more").addEventListener("click", () => moreLike(open));

// --- keys -----------------------------------------------------------------------------------
addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented) return;
  if (open) { if (e.key === "m") { e.preventDefault(); moreLike(open); } return; }
  const typing = e.target.matches("input:not([type=checkbox]), select, textarea");
  if (e.key === "/" && !typing) { e.preventDefault(); $("text").focus(); $("text").select(); return; }
  const cards = [...$("hits").querySelectorAll(".open")];
  if (e.key === "ArrowDown" && e.target === $("text") && cards.length) { e.preventDefault(); cards[0].focus(); return; }
  if (typing) return;
  const at = cards.indexOf(document.activeElement);
  if (at < 0) return;
  if (e.key === "m") { e.preventDefault(); moreLike(cards[at].parentElement.hit); return; }
  const columns = cards.filter(c => c.parentElement.offsetTop === cards[0].parentElement.offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[e.key];
  if (!step) return;
  e.preventDefault();
  if (at + step < 0) $("text").focus();
  else cards[Math.min(at + step, cards.length - 1)].focus();
});

// --- the beginning --------------------------------------------------------------------------
ask("health").then(found => {
  about = found;
  $("table").textContent = `· ${found.table}`;
  document.title = `${found.table} · moca search`;
  $("about").textContent = `${found.rows.toLocaleString("en")} rows · ${found.model} · ${found.dimension} dimensions`
    + (found.multi_vector ? ", a vector a token" : "");
  $("words").hidden = !found.hybrid;
  recall();
  $("text").focus();
}).catch(e => say(e.message, true));
