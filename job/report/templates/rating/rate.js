// The page: who rates, one trial after the other, and the file at the end.
(() => {
  const byId = (id) => document.getElementById(id);
  const study = JSON.parse(byId("study").textContent);
  const key = (name) => `${FORMAT}/${study.page}/${name}`;
  const figures = [...document.querySelectorAll("#pictures figure")];
  const images = figures.map((figure) => figure.querySelector("img"));

  let rater = null;
  let votes = new Map();
  let at = 0; // the trial that is shown
  let marks = { best: null, worst: null };
  let turns = 0; // how often a trial was shown
  let ready = false; // whether all its pictures are there to be seen
  let isKept = true; // whether this browser has kept the votes
  let blob = null; // the URI of the file to download

  const unanswered = (from) => study.trials.findIndex((_, trial) => trial >= from && !votes.has(trial));
  const picturesOf = (trial) => study.trials[trial].pictures.map((name) => `${study.folder}/${name}.webp`);

  function show(section) {
    for (const id of ["begin", "trial", "end"]) byId(id).hidden = id !== section;
    byId(section).querySelector("[tabindex='-1']").focus();
  }

  // What this browser keeps.

  function keep() {
    try {
      localStorage.setItem(key(rater), exportedVotes(study, rater, votes));
      isKept = true;
    } catch {
      isKept = false;
    }
    byId("unkept").hidden = isKept;
  }

  // The votes that are kept of every rater of this page; of one whose are none, nothing.
  function keptSessions() {
    try {
      const found = Object.keys(localStorage).filter((name) => name.startsWith(key(""))).sort();
      return found.flatMap((name) => {
        const session = readSession(localStorage.getItem(name));
        return session !== null && key(session.rater) === name ? [session] : [];
      });
    } catch {
      return [];
    }
  }

  function readSession(text) {
    try {
      return importedVotes(study, text);
    } catch {
      return null;
    }
  }

  // Who rates.

  function begin(name, imported = new Map()) {
    rater = name;
    const kept = keptSessions().find((session) => session.rater === name)?.votes ?? [];
    votes = new Map([...kept, ...imported]);
    keep();
    byId("who").textContent = rater;
    next(0);
  }

  function offerSessions() {
    const buttons = keptSessions().map((session) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Go on as ${session.rater}: ${session.votes.size} of ${study.trials.length} answered`;
      button.addEventListener("click", () => begin(session.rater));
      return button;
    });
    byId("sessions").replaceChildren(...buttons);
  }

  byId("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      begin(raterName(byId("name").value));
    } catch (error) {
      byId("refused").textContent = error.message;
      byId("name").focus();
    }
  });

  byId("import").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file === undefined) return;
    try {
      if (file.size > 1e6) throw new Error("This file is too large to be one of answers.");
      const session = importedVotes(study, await file.text());
      byId("refused").textContent = "";
      begin(session.rater, session.votes);
    } catch (error) {
      byId("refused").textContent = error.message;
    }
    event.target.value = "";
  });

  // One trial.

  function next(from) {
    const found = unanswered(from);
    at = found === -1 ? unanswered(0) : found;
    if (at === -1) finish();
    else present();
  }

  async function present() {
    const trial = study.trials[at];
    turns += 1;
    const turn = turns;
    const sources = picturesOf(at);
    marks = { best: null, worst: null };
    ready = false;
    byId("progress").value = votes.size;
    byId("said").textContent = `${at + 1} of ${study.trials.length}`;
    byId("prompt").textContent = study.prompts[trial.prompt] || "(empty prompt)";
    byId("pictures").dataset.count = sources.length;
    byId("lost").hidden = true;
    figures.forEach((figure, place) => {
      figure.hidden = place >= sources.length;
      if (place < sources.length) images[place].src = sources[place];
    });
    drawMarks();
    if (byId("trial").hidden) show("trial");
    try {
      await Promise.all(sources.map((_, place) => images[place].decode()));
    } catch {
      if (turn === turns) byId("lost").hidden = false;
      return;
    }
    if (turn !== turns || byId("trial").hidden) return;
    ready = true;
    byId("pictures").setAttribute("aria-busy", "false");
    preload();
  }

  let preloaded = [];
  function preload() {
    const following = unanswered(at + 1);
    preloaded = (following === -1 ? [] : picturesOf(following)).map((source) => {
      const image = new Image();
      image.src = source;
      return image;
    });
  }

  function drawMarks() {
    const two = study.trials[at].pictures.length === 2;
    figures.forEach((figure, place) => {
      const [best, worst] = ["best", "worst"].map((kind) => figure.querySelector(`button.${kind}`));
      best.setAttribute("aria-pressed", String(marks.best === place));
      worst.setAttribute("aria-pressed", String(marks.worst === place));
      worst.hidden = two;
    });
    byId("pictures").setAttribute("aria-busy", String(!ready));
    const isMarked = marks.best !== null || marks.worst !== null;
    byId("rest").setAttribute("aria-disabled", String(!isMarked));
    byId("rest").hidden = byId("of-three").hidden = two;
    byId("undo").setAttribute("aria-disabled", String(!isMarked && lastBefore(at) === undefined));
  }

  // Mark a picture as the best or the worst, or take the mark off it again.
  function mark(kind, place) {
    const pictures = study.trials[at].pictures.length;
    if (!ready || place >= pictures || (kind === "worst" && pictures === 2)) return;
    const other = kind === "best" ? "worst" : "best";
    marks[kind] = marks[kind] === place ? null : place;
    if (marks[other] === place) marks[other] = null;
    if (marks.best !== null && (pictures === 2 || marks.worst !== null)) vote();
    else drawMarks();
  }

  // One picture after the other: the first is the best, the second the worst.
  function pick(place) {
    mark(marks.best === null || marks.best === place ? "best" : "worst", place);
  }

  function vote() {
    votes.set(at, marks);
    keep();
    next(at + 1);
  }

  function noDifference() {
    if (!ready) return;
    marks = { best: null, worst: null };
    vote();
  }

  function restAlike() {
    if (ready && (marks.best !== null || marks.worst !== null)) vote();
  }

  const lastBefore = (trial) => [...votes.keys()].filter((each) => each < trial).sort((a, b) => b - a)[0];

  // Take off the marks, or else the answer before.
  function undo() {
    if (!byId("trial").hidden && (marks.best !== null || marks.worst !== null)) {
      marks = { best: null, worst: null };
      drawMarks();
      return;
    }
    const last = lastBefore(byId("trial").hidden ? Infinity : at);
    if (last === undefined) return;
    votes.delete(last);
    keep();
    at = last;
    present();
  }

  figures.forEach((figure, place) => {
    figure.querySelector("button.picture").addEventListener("click", () => pick(place));
    figure.querySelector("button.best").addEventListener("click", () => mark("best", place));
    figure.querySelector("button.worst").addEventListener("click", () => mark("worst", place));
  });
  byId("none").addEventListener("click", noDifference);
  byId("rest").addEventListener("click", restAlike);
  byId("undo").addEventListener("click", undo);
  byId("pause").addEventListener("click", finish);
  byId("change").addEventListener("click", undo);
  byId("go-on").addEventListener("click", () => next(0));

  document.addEventListener("keydown", (event) => {
    if (byId("trial").hidden || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    const digit = /^(?:Digit|Numpad)([0-3])$/.exec(event.code)?.[1];
    if (digit === "0") noDifference();
    else if (digit !== undefined && event.shiftKey) mark("worst", Number(digit) - 1);
    else if (digit !== undefined) pick(Number(digit) - 1);
    else if (event.key === "ArrowRight") restAlike();
    else if (event.key === "ArrowLeft" || event.key === "Backspace") undo();
    else return;
    event.preventDefault();
  });

  // The file.

  function finish() {
    const text = exportedVotes(study, rater, votes);
    const isWhole = votes.size === study.trials.length;
    const name = `ratings-${study.run}-${rater}.json`.replace(/[^\p{L}\p{N}._-]/gu, "-");
    byId("finished").textContent = isWhole ? "All answered. Thank you!" : "Not finished yet";
    byId("how-many").textContent = `${votes.size} of ${study.trials.length} answered by ${rater}.`;
    byId("file").value = text;
    URL.revokeObjectURL(blob);
    blob = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    byId("download").href = blob;
    byId("download").download = name;
    byId("command").textContent = `lora-job report RUN --ratings ${name}`;
    byId("copied").textContent = "";
    byId("go-on").hidden = isWhole;
    byId("change").hidden = votes.size === 0;
    show("end");
  }

  byId("copy").addEventListener("click", () => {
    byId("file").select();
    const done = document.execCommand("copy"); // The newer way is not there on a page that came over plain HTTP.
    byId("copied").textContent = done ? "Copied." : "Not copied: please select the text and copy it.";
  });

  window.addEventListener("beforeunload", (event) => {
    if (!isKept && votes.size > 0) event.preventDefault();
  });

  // The same page in another tab, by the same rater.
  window.addEventListener("storage", (event) => {
    const session = rater !== null && event.key === key(rater) ? readSession(event.newValue) : null;
    if (session === null) return;
    votes = session.votes;
    if (!byId("trial").hidden) next(0);
    else if (!byId("end").hidden) finish();
  });

  offerSessions();
  show("begin");
  byId("name").focus();
})();
