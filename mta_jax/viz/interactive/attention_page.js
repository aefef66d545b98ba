
"use strict";
(() => {
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const STEPS = 2047;
  // Of the largest weight: less may be of either sign.
  const LEAST_SIGN = 0.05;
  const STRONGEST = 8;
  // Pixels of a cell, and of a whole map: browsers limit the size of a canvas.
  const SMALLEST = 9, LARGEST = 26, MOST_PIXELS = 3600;
  const LONGEST_LABEL = 12;

  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const keys = data.keys, queries = data.queries ?? data.keys;
  const isOneText = data.queries === null;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const canvas = find("map"), frame = find("frame");
  const state = { kind: 0, layer: 0, head: 0, query: queries.length - 1, key: null, held: false };
  const decoded = new Map();
  let place = null;

  // The weights of a map, row by row.
  function weightsOf(head) {
    if (!decoded.has(head)) {
      const weights = new Float32Array(queries.length * keys.length);
      head.rows.split(",").forEach((row, query) => {
        for (let at = 0; at < row.length; at += 2) {
          const number = ALPHABET.indexOf(row[at]) * 64 + ALPHABET.indexOf(row[at + 1]);
          weights[query * keys.length + at / 2] = ((number - STEPS - 1) / STEPS) * head.limit;
        }
      });
      decoded.set(head, { weights, limit: head.limit });
    }
    return decoded.get(head);
  }

  const kindNow = () => data.kinds[state.kind];
  const layerNow = () => kindNow().layers[state.layer];
  const mapNow = () => weightsOf(layerNow().heads[state.head]);
  const rowOf = (map, query) => map.weights.subarray(query * keys.length, (query + 1) * keys.length);
  const largest = (row) => row.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0);

  // White space and control characters as signs for them.
  function visible(text) {
    const seen = text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");
    return seen.replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))) || "\u2205";
  }
  function label(text) {
    const letters = [...visible(text).replace(/ /g, "\u2423")];
    return letters.length > LONGEST_LABEL ? letters.slice(0, LONGEST_LABEL - 1).join("") + "\u2026" : letters.join("");
  }
  // As many places as make a thousandth of the largest weight seen.
  function figure(weight, limit) {
    const places = limit ? Math.min(12, Math.max(0, 3 + Math.ceil(-Math.log10(limit)))) : 3;
    const text = weight.toFixed(places);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "\u2212");
  }

  // Colour of a share of the largest weight, from -1 to 1. All maps have the same colours.
  const components = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  function colour(share) {
    const stops = data.colours[dark.matches ? "dark" : "light"];
    const at = Math.min(1, Math.max(0, data.signed ? (share + 1) / 2 : share)) * (stops.length - 1);
    const low = components(stops[Math.floor(at)]), high = components(stops[Math.ceil(at)]);
    return low.map((value, i) => Math.round(value + (high[i] - value) * (at % 1)));
  }
  function textOn(rgb) {
    const linear = rgb.map((v) => (v <= 10 ? v / 3295 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "#000" : "#fff";
  }
  const css = (rgb) => `rgb(${rgb.join(",")})`;

  // Texts.
  function fill(container, texts, prefix) {
    texts.forEach((text, number) => {
      const token = document.createElement("span");
      token.className = "token";
      token.id = `${prefix}-${number}`;
      token.dataset.number = number;
      token.textContent = visible(text) + (text.includes("\n") ? "\n" : "");
      container.append(token);
    });
  }
  const keyText = find("keys");
  const queryText = isOneText ? keyText : find("queries");
  fill(keyText, keys, "key");
  if (!isOneText) fill(queryText, queries, "query");
  find("query-part").hidden = isOneText;
  queryText.setAttribute("role", "listbox");
  queryText.setAttribute("aria-label", "Tokens that attend");
  queryText.setAttribute("aria-describedby", "hint");
  queryText.tabIndex = 0;
  for (const token of queryText.children) token.setAttribute("role", "option");

  function showTexts(map) {
    const row = rowOf(map, state.query), limit = largest(row);
    for (const text of new Set([queryText, keyText])) text.classList.toggle("held", state.held);
    [...keyText.children].forEach((token, key) => {
      const weight = row[key];
      const rgb = weight ? colour(weight / limit) : null;
      token.style.background = rgb ? css(rgb) : "";
      token.style.color = rgb ? textOn(rgb) : "";
      token.classList.toggle("negative", weight < -LEAST_SIGN * limit);
      token.classList.toggle("key", key === state.key);
    });
    [...queryText.children].forEach((token, query) => {
      token.classList.toggle("query", query === state.query);
      token.setAttribute("aria-selected", query === state.query);
    });
    queryText.setAttribute("aria-activedescendant", queryText.children[state.query].id);
    const least = (map.limit / STEPS / 2).toPrecision(1);
    const signs = data.signed ? ", dashed below: negative" : "";
    find("scale").textContent = limit
      ? `Strongest colour: ${figure(limit, map.limit)}, no colour: less than ${least}${signs}.`
      : "This query attends to nothing.";
  }

  function named(texts, number) {
    return `${number} \u201c${label(texts[number])}\u201d`;
  }
  function showFigures(map) {
    const row = rowOf(map, state.query);
    const query = `Query ${named(queries, state.query)}${state.held ? " (held)" : ""}`;
    // The others would be shown as zero.
    const isSeen = (key) => Number(figure(Math.abs(row[key]), map.limit)) > 0;
    const order = [...row.keys()].filter(isSeen).sort((a, b) => Math.abs(row[b]) - Math.abs(row[a]) || a - b);
    const key = state.key ?? order[0];
    const about = key === undefined ? "no weights" : `key ${named(keys, key)}: ${figure(row[key], map.limit)}`;
    find("readout").textContent = `${query}, ${state.key === null && order.length ? "strongest " : ""}${about}`;
    find("strongest").replaceChildren(...order.slice(0, STRONGEST).map((key) => {
      const line = document.createElement("tr");
      for (const text of [key, label(keys[key]), figure(row[key], map.limit)]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        line.append(cell);
      }
      return line;
    }));
  }

  // The map: cells first, in one image of a pixel each, which is kept until they change.
  const cells = document.createElement("canvas");
  let cellsShown = null;
  function drawCells(map) {
    const byQuery = find("by-query").checked;
    const shown = [map, byQuery, dark.matches];
    if (cellsShown?.every((part, i) => part === shown[i])) return;
    cellsShown = shown;
    cells.width = keys.length;
    cells.height = queries.length;
    const context = cells.getContext("2d");
    const image = context.createImageData(keys.length, queries.length);
    for (let query = 0; query < queries.length; query++) {
      const row = rowOf(map, query);
      const limit = (byQuery ? largest(row) : map.limit) || 1;
      row.forEach((weight, key) => {
        image.data.set([...colour(weight / limit), 255], 4 * (query * keys.length + key));
      });
    }
    context.putImageData(image, 0, 0);
  }

  function drawMap(map) {
    drawCells(map);
    const style = getComputedStyle(document.body);
    const context = canvas.getContext("2d");
    const most = Math.max(keys.length, queries.length);
    const smallest = Math.max(1, Math.min(SMALLEST, Math.floor(MOST_PIXELS / most)));
    const font = (size, weight = "") => `${weight} ${size}px ui-monospace, monospace`;
    const keyLabels = keys.map(label), queryLabels = queries.map(label);
    const upright = keyLabels.every((text) => [...text].length <= 1);
    const widest = (texts) => texts.reduce((most, text) => Math.max(most, context.measureText(text).width), 8);
    // Room for labels of a size, and what it leaves for a cell.
    const layout = (size) => {
      context.font = font(size, "bold");
      const left = Math.ceil(widest(queryLabels)) + 8;
      const top = upright ? 18 : Math.ceil(widest(keyLabels)) + 8;
      const fitting = Math.floor((frame.clientWidth - left - 2) / keys.length);
      return { left, top, cell: Math.min(LARGEST, Math.max(smallest, fitting)) };
    };
    const size = Math.max(8, Math.min(12, layout(12).cell - 1));
    const { left, top, cell } = layout(size);
    const width = left + cell * keys.length + 2, height = top + cell * queries.length + 2;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, left, top, cell * keys.length, cell * queries.length);
    place = { left, top, cell };

    const every = Math.ceil((size + 1) / cell);
    const write = (text, number, isKey, isChosen) => {
      context.save();
      context.fillStyle = isChosen ? style.color : getComputedStyle(find("hint")).color;
      context.font = font(size, isChosen ? "bold" : "");
      const middle = (number + 0.5) * cell;
      context.textBaseline = "middle";
      if (!isKey) {
        context.textAlign = "right";
        context.fillText(text, left - 5, top + middle);
      } else if (upright) {
        context.textAlign = "center";
        context.fillText(text, left + middle, top - 9);
      } else {
        context.translate(left + middle, top - 5);
        context.rotate(-Math.PI / 2);
        context.fillText(text, 0, 0);
      }
      context.restore();
    };
    // A chosen one takes the place of its neighbours where not all are written.
    const isFree = (number, chosen) => number % every === 0 && (chosen === null || Math.abs(number - chosen) >= every);
    keyLabels.forEach((text, key) => {
      if (key === state.key || isFree(key, state.key)) write(text, key, true, key === state.key);
    });
    queryLabels.forEach((text, query) => {
      if (query === state.query || isFree(query, state.query)) write(text, query, false, query === state.query);
    });

    if (data.signed && cell >= 7) {
      const byQuery = find("by-query").checked;
      for (let query = 0; query < queries.length; query++) {
        const row = rowOf(map, query), limit = (byQuery ? largest(row) : map.limit) || 1;
        row.forEach((weight, key) => {
          if (weight >= -LEAST_SIGN * limit) return;
          context.fillStyle = textOn(colour(weight / limit));
          context.fillRect(left + (key + 0.25) * cell, top + (query + 0.5) * cell - 0.5, cell / 2, 1);
        });
      }
    }
    // Two lines, of which one is seen on every colour.
    const outline = (x, y, wide, high) => {
      for (const [line, ink] of [[4, style.backgroundColor], [2, style.color]]) {
        context.lineWidth = line;
        context.strokeStyle = ink;
        context.strokeRect(x, y, wide, high);
      }
    };
    outline(left, top + state.query * cell, cell * keys.length, cell);
    if (state.key !== null) outline(left + state.key * cell, top + state.query * cell, cell, cell);

    const ends = [data.signed ? -1 : 0, 1];
    const stops = Array.from({ length: 17 }, (_, i) => css(colour(ends[0] + ((ends[1] - ends[0]) * i) / 16)));
    find("bar").style.background = `linear-gradient(to right, ${stops.join(",")})`;
    const limit = find("by-query").checked ? largest(rowOf(map, state.query)) : map.limit;
    find("least").textContent = figure(ends[0] * limit, map.limit);
    find("most").textContent = figure(limit, map.limit) + (find("by-query").checked ? " (this query)" : "");
  }

  function show() {
    const map = mapNow();
    showTexts(map);
    showFigures(map);
    drawMap(map);
  }

  // Choices.
  function offer(id, names) {
    const choice = find(id);
    choice.replaceChildren(...names.map((name, number) => new Option(name, number)));
    state[id] = Math.min(state[id], names.length - 1);
    choice.value = state[id];
  }
  function choose(id, number) {
    state[id] = number;
    offer("kind", data.kinds.map((kind) => kind.name));
    offer("layer", kindNow().layers.map((layer) => layer.name));
    offer("head", layerNow().heads.map((_, head) => `head ${head}`));
    show();
  }
  for (const id of ["kind", "layer", "head"]) {
    find(id).addEventListener("change", (event) => choose(id, Number(event.target.value)));
  }
  find("kind-choice").hidden = data.kinds.length === 1 && !data.kinds[0].name;
  find("by-query").addEventListener("change", show);

  function look(query, key) {
    if (query === state.query && key === state.key) return;
    Object.assign(state, { query, key });
    show();
  }
  function hold(query, key) {
    const isSame = state.held && query === state.query;
    Object.assign(state, { query, key, held: !isSame });
    show();
  }
  const tokenAt = (event) => {
    const token = event.target.closest(".token");
    return token ? Number(token.dataset.number) : null;
  };
  queryText.addEventListener("pointerover", (event) => {
    const number = tokenAt(event);
    if (number === null || event.pointerType === "touch") return;
    if (!state.held) look(number, null);
    else if (isOneText) look(state.query, number);
  });
  queryText.addEventListener("click", (event) => {
    const number = tokenAt(event);
    if (number !== null) hold(number, null);
  });
  if (!isOneText) {
    for (const kind of ["pointerover", "click"]) {
      keyText.addEventListener(kind, (event) => {
        const number = tokenAt(event);
        if (number !== null) look(state.query, number);
      });
    }
  }

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const key = Math.floor((event.clientX - box.left - place.left) / place.cell);
    const query = Math.floor((event.clientY - box.top - place.top) / place.cell);
    const isInside = key >= 0 && key < keys.length && query >= 0 && query < queries.length;
    return isInside ? [query, key] : null;
  }
  canvas.addEventListener("pointermove", (event) => {
    const cell = event.pointerType === "touch" || state.held ? null : cellAt(event);
    if (cell) look(...cell);
  });
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) hold(...cell);
  });

  const clamp = (number, count) => Math.min(count - 1, Math.max(0, number));
  // Shortcuts of letters work in the text and the map only, not while a browser's own key is meant.
  function shortcut(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return true;
    if (event.key === "Escape") {
      state.held = false;
      show();
      return true;
    }
    const counts = { k: ["kind", data.kinds], l: ["layer", kindNow().layers], h: ["head", layerNow().heads] };
    const found = counts[event.key.toLowerCase()];
    if (!found) return false;
    const [id, all] = found;
    choose(id, (state[id] + (event.shiftKey ? -1 : 1) + all.length) % all.length);
    return true;
  }
  queryText.addEventListener("keydown", (event) => {
    if (shortcut(event)) return;
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -queries.length, End: queries.length };
    if (event.key === " " || event.key === "Enter") hold(state.query, null);
    else if (event.key in steps) look(clamp(state.query + steps[event.key], queries.length), null);
    else return;
    event.preventDefault();
    queryText.children[state.query].scrollIntoView({ block: "nearest" });
  });
  canvas.addEventListener("keydown", (event) => {
    if (shortcut(event)) return;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const key = state.key ?? 0;
    if (event.key === " " || event.key === "Enter") hold(state.query, key);
    else if (event.key in steps) {
      const [down, across] = steps[event.key];
      look(clamp(state.query + down, queries.length), clamp(key + across, keys.length));
    } else return;
    event.preventDefault();
  });

  dark.addEventListener("change", show);
  choose("kind", 0);
  let width = frame.clientWidth;
  new ResizeObserver(() => {
    if (frame.clientWidth === width) return;
    width = frame.clientWidth;
    drawMap(mapNow());
  }).observe(frame);
})();
