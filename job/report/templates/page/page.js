"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const gallery = JSON.parse(byId("gallery-data").textContent);
  const last = gallery.steps.length - 1;
  const nameOfStep = (at) => (gallery.steps[at] === 0 ? "base model" : `step ${gallery.steps[at]}`);
  const source = (name) => gallery.embedded[name] ?? `pictures/${name}.webp`;

  // A place is a variant, a checkpoint, a row and a way of prompting; variant, checkpoint and row are numbers.
  const placeOf = (at) => `${at.variant}/${at.seed}/${gallery.steps[at.step]}/${at.row}/${at.prompting}`;
  const textOf = (at) => (at.prompting === "bare" ? gallery.rows[at.row].bare : gallery.rows[at.row].as_trained[at.variant]);
  const describe = (at) =>
    `${gallery.variants[at.variant]}, ${nameOfStep(at.step)}, ${at.prompting === "bare" ? "bare" : "as trained"}: ${textOf(at)}`;

  function show(holder, at) {
    const place = placeOf(at);
    const name = gallery.names[place];
    if (name === undefined) {
      holder.replaceChildren(gallery.lost.includes(place) ? "no picture: its pixels were not finite, or its file is missing" : "not drawn here");
      return false;
    }
    const image = holder.querySelector("img") ?? document.createElement("img");
    image.onerror = () => holder.replaceChildren(`report/pictures/${name}.webp is not beside this page`);
    image.alt = describe(at);
    if (image.getAttribute("src") !== source(name)) image.src = source(name);
    if (image.parentNode !== holder) holder.replaceChildren(image);
    return true;
  }

  function pictures() {
    const slider = byId("step");
    const seed = byId("training-seed");
    const cells = [...document.querySelectorAll("button.picture")];
    const prompting = () => document.querySelector("input[name=prompting]:checked").value;
    const at = (cell) => ({
      variant: Number(cell.dataset.column),
      row: Number(cell.dataset.row),
      step: Number(slider.value),
      seed: seed ? seed.value : gallery.seeds[0],
      prompting: prompting(),
    });
    function update() {
      byId("step-name").textContent = nameOfStep(slider.value);
      slider.setAttribute("aria-valuetext", nameOfStep(slider.value));
      byId("shown").textContent = `${nameOfStep(slider.value)}, prompted ${prompting() === "bare" ? "bare" : "as trained"}`;
      for (const cell of cells) cell.disabled = !show(cell, at(cell));
    }
    slider.addEventListener("input", update);
    seed?.addEventListener("change", update);
    document.querySelectorAll("input[name=prompting]").forEach((input) => input.addEventListener("change", update));
    byId("pictures").addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by === undefined || event.target.matches("input, select, .scroll")) return;
      event.preventDefault();
      slider.value = Number(slider.value) + by;
      update();
    });
    byId("more")?.addEventListener("click", (event) => {
      document.querySelectorAll("tr.later").forEach((row) => (row.hidden = false));
      event.target.remove();
    });
    const zoom = zoomed();
    cells.forEach((cell) => cell.addEventListener("click", () => zoom(at(cell))));
    update();
  }

  function zoomed() {
    const dialog = byId("zoom");
    const sides = ["left", "right"].map((id) => {
      const figure = byId(id);
      const choose = (kind) => figure.querySelector(`select.${kind}`);
      return { figure, variant: choose("variant"), step: choose("step"), prompting: choose("prompting") };
    });
    let row = 0;
    let seed = gallery.seeds[0];
    function update() {
      byId("zoom-title").textContent = gallery.rows[row].bare || "(empty prompt)";
      for (const side of sides) {
        const at = { variant: Number(side.variant.value), step: Number(side.step.value), prompting: side.prompting.value, row, seed };
        show(side.figure.querySelector(".frame"), at);
        side.figure.querySelector(".text").textContent = textOf(at);
      }
      byId("previous").disabled = row === 0;
      byId("next").disabled = row === gallery.rows.length - 1;
    }
    const turn = (by) => {
      row = Math.min(Math.max(row + by, 0), gallery.rows.length - 1);
      update();
    };
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    byId("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by !== undefined && !event.target.matches("select")) turn(by);
    });
    sides.forEach((side) => [side.variant, side.step, side.prompting].forEach((input) => input.addEventListener("change", update)));
    return (at) => {
      [row, seed] = [at.row, at.seed];
      const [left, right] = sides;
      left.variant.value = at.variant;
      left.step.value = at.step;
      left.prompting.value = right.prompting.value = at.prompting;
      // Beside a variant stands the next one; a variant that is alone stands beside the base model, or its last checkpoint.
      right.variant.value = (at.variant + 1) % gallery.variants.length;
      right.step.value = gallery.variants.length > 1 ? at.step : at.step === 0 ? last : 0;
      update();
      dialog.showModal();
    };
  }

  function search() {
    const rows = [...document.querySelectorAll("table.images tbody tr")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    byId("search").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      rows.forEach((row, at) => (row.hidden = !texts[at].includes(wanted)));
      const shown = rows.filter((row) => !row.hidden).length;
      byId("found").textContent = wanted ? `${shown} of ${rows.length}` : "";
    });
  }

  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("img[loading=lazy]").forEach((image) => (image.loading = "eager"));
  });
  if (gallery.rows.length > 0) pictures();
  if (byId("search")) search();
})();
