"use strict";
// Text from outside goes into the page as text alone: textContent, never innerHTML.

const byId = (id) => document.getElementById(id);
const dollars = (value) =>
  value.toLocaleString("en-US", { style: "currency", currency: "USD" });
const CHUNK = 16; // products of a file that are priced at once, fewer where that is too much
const TRIES = 8; // where the service is busy
const WHY = {
  "low-price-mass": "The model was not sure that a price comes at all",
  "no-price": "The model said $0",
  "no-distribution": "The model gave no numbers",
  "out-of-memory": "There was not enough memory",
  "model-error": "The model failed",
  "timeout": "The model took too long",
  "fallback-only": "This service runs without its model",
};

class Refused extends Error {
  constructor(problem, status, retryAfter) {
    super(problem.detail || problem.title || `The service answered ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
    this.errors = problem.errors || [];
  }
}

async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = byId("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ detail: "The service cannot be reached" }, 0, 2);
  }
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) byId("access").open = true;
  throw new Refused(problem, response.status, Number(response.headers.get("Retry-After")) || 0);
}

// --- one product ---

let current = null;

async function ask(event) {
  event.preventDefault();
  const button = byId("ask").querySelector("button");
  tell("problem", "");
  tell("status", "Reading the description …");
  button.disabled = true;
  try {
    const asked = {
      products: [{ description: byId("description").value }],
      interval: Number(byId("level").value),
      distribution: true,
    };
    const { estimates } = await call("/v1/estimates", asked);
    show(estimates[0]);
  } catch (error) {
    tell("problem", error.message);
  } finally {
    tell("status", "");
    button.disabled = false;
  }
}

function show(estimate) {
  current = estimate;
  tell("price", dollars(estimate.estimate_usd));
  const range = estimate.interval;
  tell("interval", range
    ? `${range.level}% of such products cost ${dollars(range.low_usd)} to ` +
      `${dollars(range.high_usd)}` + (range.calibrated ? "." : ", by the model's own word.")
    : "No interval of this level could be calibrated.");
  const notes = [];
  if (estimate.fallback) {
    notes.push(`${WHY[estimate.fallback] || estimate.fallback}: this is what its words and similar ` +
      "products suggest.");
  }
  if (estimate.truncated) notes.push("The description was cut to what the model reads.");
  tell("notes", notes.join(" "));
  draw(estimate);
  list(estimate.neighbors || []);
  byId("outcome").reset();
  tell("told", "");
  byId("answer").hidden = false;
  byId("price").focus({ preventScroll: true });
  byId("answer").scrollIntoView({ block: "nearest" });
}

function draw(estimate) {
  const picture = byId("distribution");
  picture.replaceChildren();
  byId("picture").hidden = !estimate.probabilities;
  if (!estimate.probabilities) return;
  const all = estimate.probabilities;
  const [low, high] = tails(all);
  const columns = Math.min(60, high - low + 1);
  const edges = Array.from({ length: columns + 1 },
    (_, n) => low + Math.floor((high - low + 1) * n / columns));
  const bars = edges.slice(1).map((end, n) =>
    all.slice(edges[n], end).reduce((sum, p) => sum + p, 0) / (end - edges[n]));
  const top = Math.max(...bars);
  const x = (price) => 600 * (price - low) / (high - low + 1);
  const range = estimate.interval;
  bars.forEach((bar, n) => {
    const height = 140 * bar / top;
    const middle = (edges[n] + edges[n + 1] - 1) / 2;
    const inside = range && middle >= range.low_usd && middle <= range.high_usd;
    add(picture, "rect", {
      x: x(edges[n]) + 0.5, y: 155 - height, height,
      width: Math.max(x(edges[n + 1]) - x(edges[n]) - 1, 0.5),
      class: inside ? "bar inside" : "bar",
    });
  });
  add(picture, "line", { x1: 0, x2: 600, y1: 155, y2: 155, class: "axis" });
  const at = x(Math.min(Math.max(estimate.estimate_usd + 0.5, low), high + 1));
  add(picture, "line", { x1: at, x2: at, y1: 8, y2: 155, class: "estimate" });
  tell("lowest", `$${low}`);
  tell("highest", `$${high}`);
  picture.setAttribute("aria-label",
    `Distribution of the price, from $${low} to $${high}, around ${byId("price").textContent}`);
}

function tails(all) {
  let seen = 0;
  let low = 0;
  for (let price = 0; price < all.length; price += 1) {
    if (seen < 0.01) low = price;
    seen += all[price];
    if (seen >= 0.99) return [low, price];
  }
  return [low, all.length - 1];
}

function add(parent, name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
}

function list(neighbors) {
  byId("likened").hidden = !neighbors.length;
  byId("neighbors").replaceChildren(...neighbors.map((one) => {
    const row = document.createElement("tr");
    const cells = [one.title, dollars(one.price_usd), one.similarity.toFixed(2)];
    cells.forEach((text, n) => {
      const cell = row.appendChild(document.createElement("td"));
      cell.textContent = text;
      if (n) cell.className = "number";
    });
    return row;
  }));
}

async function sold(event) {
  event.preventDefault();
  try {
    const outcome = { estimate_id: current.id, price_usd: Number(byId("sold").value) };
    await call("/v1/outcomes", { outcomes: [outcome] });
    tell("told", "Thank you, it is in the log. A correction may follow.");
  } catch (error) {
    tell("told", error.message);
  }
}

function tell(id, text) {
  byId(id).textContent = text;
}

// --- a file of products ---

// RFC 4180, and a line feed alone ends a row too
function parseCsv(text) {
  const rows = [];
  let row = [];
  let field = "";
  let quoted = false;
  for (let n = 0; n < text.length; n += 1) {
    const sign = text[n];
    if (quoted) {
      if (sign !== '"') field += sign;
      else if (text[n + 1] === '"') { field += '"'; n += 1; }
      else quoted = false;
    } else if (sign === '"' && field === "") quoted = true;
    else if (sign === ",") { row.push(field); field = ""; }
    else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[n + 1] === "\n") n += 1;
      row.push(field);
      rows.push(row);
      row = [];
      field = "";
    } else field += sign;
  }
  if (quoted) throw new Error("The file ends within a quoted field");
  if (field !== "" || row.length) { row.push(field); rows.push(row); }
  return rows.filter((one) => one.some((cell) => cell.trim() !== ""));
}

// a spreadsheet takes what begins with one of these for a formula (OWASP, CSV injection)
function csvField(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^ *[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function products(rows) {
  const names = rows[0].map((name) => name.trim().toLowerCase());
  const place = (name) => names.indexOf(name);
  const described = place("description") >= 0 ? place("description") : place("summary");
  const titled = place("title");
  if (described < 0 && titled < 0) {
    throw new Error("The first line must name a column: description, summary or title");
  }
  return rows.slice(1).map((row) => {
    const cell = (n) => (n >= 0 && row[n] !== undefined && row[n].trim() ? row[n] : undefined);
    // a summary tells its title itself
    if (place("description") < 0 && described >= 0) return { description: cell(described) };
    return { description: cell(described), title: cell(titled), category: cell(place("category")) };
  });
}

let controller = null;
let link = null;

async function priceFile(file) {
  if (!file) return;
  if (controller) controller.abort();
  const own = controller = new AbortController();
  tell("problem", "");
  try {
    const text = (await file.text()).replace(/^\ufeff/, "");
    const rows = parseCsv(text);
    if (rows.length < 2) throw new Error("There is no product in this file");
    await priceRows(rows, products(rows), own);
  } catch (error) {
    if (error.name !== "AbortError") tell("problem", error.message);
  }
}

async function priceRows(rows, asked, own) {
  const columns = ["estimate_usd", "low_usd", "high_usd", "interval", "calibrated", "variant",
    "fallback", "estimate_id", "error"];
  const lines = [[...rows[0], ...columns]];
  byId("work").hidden = false;
  byId("save").hidden = true;
  byId("stop").hidden = false;
  byId("progress").max = asked.length;
  const level = Number(byId("level").value);
  let failed = 0;
  let done = 0;
  const count = (more) => {
    byId("progress").value = done;
    tell("counted", `${done} of ${asked.length} products${failed ? `, ${failed} without a price` : ""}${more}`);
  };
  count("");
  while (done < asked.length && !own.signal.aborted) {
    const chunk = asked.slice(done, done + CHUNK);
    let answers;
    try {
      answers = await priceChunk(chunk, level, own.signal, count);
    } catch (error) {
      if (error.name === "AbortError") break;
      count("");
      offer(lines);
      throw error;
    }
    answers.forEach((answer, n) => {
      const range = answer.interval || {};
      failed += answer.error ? 1 : 0;
      lines.push([...rows[0].map((_, cell) => rows[done + n + 1][cell]), answer.estimate_usd,
        range.low_usd, range.high_usd, range.level, range.calibrated, answer.variant,
        answer.fallback, answer.id, answer.error]);
    });
    done += chunk.length;
    count("");
  }
  if (controller === own) {
    count(done < asked.length ? ": stopped" : ": done");
    offer(lines);
  }
}

// one bad product is no reason to price no other: those that the service names are left out
async function priceChunk(chunk, level, signal, count) {
  const answers = chunk.map((one) =>
    one.description || one.title ? null : { error: "no description" });
  let most = chunk.length;
  for (let tries = 0; ; tries += 1) {
    const open = chunk.map((_, n) => n).filter((n) => !answers[n]).slice(0, most);
    if (!open.length) return answers;
    try {
      const body = { products: open.map((n) => chunk[n]), interval: level };
      const { estimates } = await call("/v1/estimates", body, signal);
      estimates.forEach((estimate, n) => { answers[open[n]] = estimate; });
      tries = 0;
    } catch (error) {
      const named = (error.errors || []).filter((one) => one.product !== undefined);
      if (error.status === 422 && named.length) {
        named.forEach((one) => { answers[open[one.product]] = { error: one.message }; });
      } else if ([413, 422].includes(error.status) && open.length > 1) {
        most = Math.ceil(open.length / 2); // too many at once, or too much
      } else if (error.status === 413) {
        answers[open[0]] = { error: error.message };
      } else if ([0, 429, 503, 504].includes(error.status) && tries < TRIES) {
        count(": the service is busy, waiting");
        await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 1)));
        if (signal.aborted) throw new DOMException("stopped", "AbortError");
      } else throw error;
    }
  }
}

function offer(lines) {
  if (link) URL.revokeObjectURL(link);
  const text = lines.map((line) => line.map(csvField).join(",")).join("\r\n") + "\r\n";
  link = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  byId("save").href = link;
  byId("save").hidden = false;
  byId("stop").hidden = true;
}

// --- what starts what ---

byId("ask").addEventListener("submit", ask);
byId("description").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
byId("outcome").addEventListener("submit", sold);
byId("unlock").addEventListener("submit", (event) => event.preventDefault());
byId("file").addEventListener("change", (event) => priceFile(event.target.files[0]));
byId("stop").addEventListener("click", () => controller && controller.abort());
byId("key").value = sessionStorage.getItem("key") || "";
byId("key").addEventListener("input", () => sessionStorage.setItem("key", byId("key").value));
for (const name of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") priceFile(event.dataTransfer.files[0]);
  });
}
