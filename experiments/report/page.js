"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- theme: system, light, dark -------------------------------------------------------------------------------
  const themes = ["system", "light", "dark"];
  byId("theme").addEventListener("click", (event) => {
    const now = document.documentElement.dataset.theme || "system";
    const next = themes[(themes.indexOf(now) + 1) % themes.length];
    document.documentElement.dataset.theme = next;
    event.currentTarget.textContent = `Theme: ${next}`;
    event.currentTarget.setAttribute("aria-label", `Colour theme: ${next === "system" ? "as the system" : next}`);
  });

  // ---- groups of which one is shown -----------------------------------------------------------------------------
  for (const box of every(".groups")) {
    const pick = byId(box.dataset.picker);
    const show = () => {
      for (const group of every(".group", box)) group.hidden = group.dataset.group !== pick.value;
    };
    pick.addEventListener("change", show);
    show();
  }

  // ---- matrix ----------------------------------------------------------------------------------------------------
  const stored = byId("matrix-data");
  if (!stored) return;
  const { limits, pairs } = JSON.parse(stored.textContent);
  const control = byId("pick-control");
  const names = Object.fromEntries([...control.options].map((option) => [option.value, option.text]));
  const buttons = every(".heat button");
  const value = (gain) => gain[1].split(" [")[0];

  const words = (pair) => {
    const gain = pair.g[control.value];
    const lines = [`${pair.s} → ${pair.t}, ${pair.m} on ${pair.d}`];
    if (!gain) return `${lines[0]}\nnot scored with this control`;
    const [, interval, kind, p, below, alarm, , raw, loss] = gain;
    lines.push(`Over the ${names[control.value]}: ${interval} points`);
    lines.push(`95 % interval over ${kind}`);
    lines.push(`n ${pair.n} test images, ${pair.k} seed${pair.k === 1 ? "" : "s"}; prompted ${pair.y} ${pair.v} %`);
    lines.push(`p ${raw}, after Holm's correction ${p}; one-sided for a loss ${below}`);
    lines.push(pair.o ? "The source itself, not a transfer" : `They share: ${pair.h}`);
    if (alarm) lines.push("▼ Alarm: negative transfer");
    else if (loss) lines.push(`No alarm; a loss of ${loss} points would have raised one`);
    return lines.join("\n");
  };

  const draw = () => {
    const limit = limits[control.value];
    every(".scale-ticks span").forEach((tick, i) => {
      const points = (((i - 2) / 2) * limit).toFixed(1);
      tick.textContent = i === 2 ? "0.0" : points > 0 ? `+${points}` : points.replace("-", "−");
    });
    for (const button of buttons) {
      const pair = pairs[button.dataset.pair];
      const gain = pair.g[control.value];
      const cell = button.parentElement;
      cell.classList.remove("up", "down");
      button.textContent = gain ? value(gain) : "–";
      if (gain) {
        cell.classList.add(gain[0] > 0 ? "up" : "down");
        cell.style.setProperty("--a", Math.min(1, Math.abs(gain[0]) / limit).toFixed(3));
        const sign = document.createElement("i");
        sign.textContent = gain[5] ? "▼" : gain[6] ? "▲" : "";
        button.append(sign);
      }
      button.setAttribute("aria-label", `${pair.s} to ${pair.t}: ${gain ? gain[1] : "not scored"}${gain && gain[5] ? ", alarm" : ""}`);
    }
    hide();
  };

  const filter = () => {
    for (const block of every(".matrix")) {
      const wanted = (key) => !byId(`pick-${key}`).value || byId(`pick-${key}`).value === block.dataset[key];
      block.hidden = !(wanted("data") && wanted("method"));
    }
    hide();
  };

  // ---- tooltip: hover, focus, tap ---------------------------------------------------------------------------------
  const tip = byId("tip");
  let owner = null;
  const hide = () => {
    tip.hidden = true;
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
  };
  const show = (button) => {
    hide();
    owner = button;
    tip.textContent = words(pairs[button.dataset.pair]);
    tip.hidden = false;
    button.setAttribute("aria-describedby", "tip");
    const box = button.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), width - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 0 ? above : box.bottom + 8) + window.scrollY}px`;
  };

  // ---- keys: one stop a table, arrows inside it ---------------------------------------------------------------------
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const move = (event) => {
    if (event.key === "Escape") return hide();
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const cell = event.currentTarget.parentElement;
    let [row, column] = [cell.parentElement.rowIndex + step[0], cell.cellIndex + step[1]];
    const rows = cell.closest("table").rows;
    while (rows[row] && rows[row].cells[column]) {
      const next = rows[row].cells[column].querySelector("button");
      if (next) return focus(next);
      row += step[0];
      column += step[1];
    }
  };
  const focus = (button) => {
    for (const other of every("button", button.closest("table"))) other.tabIndex = other === button ? 0 : -1;
    button.focus();
  };
  for (const grid of every(".heat")) {
    const first = grid.querySelector("button");
    if (first) first.tabIndex = 0;
  }
  for (const button of buttons) {
    button.addEventListener("focus", () => show(button));
    button.addEventListener("blur", hide);
    button.addEventListener("mouseenter", () => show(button));
    button.addEventListener("mouseleave", () => { if (document.activeElement !== button) hide(); });
    button.addEventListener("click", () => show(button));
    button.addEventListener("keydown", move);
  }
  control.addEventListener("change", draw);
  for (const key of ["data", "method"]) byId(`pick-${key}`).addEventListener("change", filter);
  draw();
  filter();
})();
