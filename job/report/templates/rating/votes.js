// The file of votes: how it is written, and how one that was written before is read.
const FORMAT = "lora-job/ratings/1";
const LONGEST_NAME = 64; // characters of a rater's

// JSON of which hashes are made: sorted keys, no spaces.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const entries = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${entries.join(",")}}`;
}

// The name of a rater as it is kept; an error says what is wrong with it.
function raterName(text) {
  const name = text.normalize("NFC").trim();
  if (name === "") throw new Error("Please enter a name.");
  if ([...name].length > LONGEST_NAME) throw new Error(`Please enter a name of at most ${LONGEST_NAME} characters.`);
  if (/\p{C}|\p{Zl}|\p{Zp}|(?! )\p{Zs}/u.test(name)) throw new Error("Please enter a name of characters that print.");
  return name;
}

// Whether a trial of so many pictures can have this best and this worst one.
function isVote(best, worst, pictures) {
  const fits = (picture) => picture === null || (Number.isInteger(picture) && picture >= 0 && picture < pictures);
  return fits(best) && fits(worst) && (best === null || best !== worst) && (pictures > 2 || worst === null);
}

// The file as text. `votes` is a Map from the place of a trial to { best, worst }.
function exportedVotes(study, rater, votes) {
  const rows = [...votes.keys()].sort((a, b) => a - b).map((trial) => {
    const { best, worst } = votes.get(trial);
    return { trial, pictures: study.trials[trial].pictures, best, worst };
  });
  const { run, run_id, page, question } = study;
  const file = { format: FORMAT, run, run_id, page, question, rater, trials: study.trials.length, votes: rows };
  return `${JSON.stringify({ ...file, sha256: sha256(canonical(file)) }, null, 2)}\n`;
}

// The rater and the votes of a file; an error says why it is none of this page.
function importedVotes(study, text) {
  const altered = new Error("This file was altered, or is not whole: its hash is not that of its content.");
  let file = null;
  try {
    file = JSON.parse(text);
  } catch {
    // It is refused below, as other JSON is.
  }
  if (file === null || typeof file !== "object" || typeof file.format !== "string" || !file.format.startsWith("lora-job/ratings/")) {
    throw new Error("This is not a file of answers from such a page.");
  }
  if (file.format !== FORMAT) throw new Error("This file is of another version of the page.");
  if (file.page !== study.page) throw new Error("These are answers to another page: other pictures, or another question.");
  if (typeof file.rater !== "string" || !Array.isArray(file.votes)) throw altered;
  const votes = new Map();
  for (const row of file.votes) {
    const trial = Number.isInteger(row?.trial) ? study.trials[row.trial] : undefined;
    if (trial === undefined || !isVote(row.best, row.worst, trial.pictures.length)) throw altered;
    votes.set(row.trial, { best: row.best, worst: row.worst });
  }
  const rater = raterName(file.rater);
  // What would be written now says all else: keys and their order, the study, the pictures, the hash.
  if (exportedVotes(study, rater, votes) !== `${JSON.stringify(file, null, 2)}\n`) throw altered;
  return { rater, votes };
}
