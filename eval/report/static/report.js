// The page reads well without this: it sorts tables, filters samples, and compares an edit with its source.
document.documentElement.classList.add("js");

// Tables ------------------------------------------------------------------------------------------------------------
// Rows without a value come last either way; each body is sorted by itself, so that reference rows stay below.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = column && head.innerText.includes("↑") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => {
        const cell = row.cells[column];
        return column === 0 ? cell.textContent : "value" in cell.dataset ? Number(cell.dataset.value) : null;
      };
      for (const body of table.tBodies) {
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
        });
        body.append(...rows);
      }
    });
  });
}

// A table that is wider than its frame says so; the shade at its side alone is easily overlooked.
const frames = new ResizeObserver((entries) => {
  for (const { target } of entries) target.classList.toggle("wide", target.scrollWidth > target.clientWidth + 1);
});
for (const caption of document.querySelectorAll(".scroll caption")) {
  const more = document.createElement("span");
  more.className = "more";
  more.textContent = " · more columns to the right →";
  caption.append(more);
  frames.observe(caption.closest(".scroll"));
}

// Samples -----------------------------------------------------------------------------------------------------------
const form = document.querySelector("form.filters");
const place = document.getElementById("cards");
const cards = [...place.children];
const texts = new Map(cards.map((card) => [card, card.querySelector("header").textContent.toLowerCase()]));

// Puts an edit into a sample's viewer.
function show(card, item) {
  const stage = card.querySelector(".stage");
  if (!stage || !item) return;
  const image = item.querySelector("img");
  const name = item.querySelector(".who").textContent;
  const below = stage.children[0];
  below.src = image.src;
  for (const button of card.querySelectorAll(".edits button")) {
    button.setAttribute("aria-pressed", String(button.parentElement === item));
  }
  card.querySelector(".shown").textContent = name;
  card.querySelector(".compare input").setAttribute("aria-label", `Share of the source shown over the edit by ${name}`);
}

function reveal(card, percent) {
  const range = card.querySelector(".compare input");
  range.value = percent;
  range.setAttribute("aria-valuetext", `${range.value} % source`);
  card.querySelector(".stage").style.setProperty("--cut", `${range.value}%`);
}

// One listener for all cards: there may be thousands.
place.addEventListener("input", (event) => reveal(event.target.closest(".sample"), event.target.value));
place.addEventListener("click", (event) => {
  const button = event.target.closest(".edits button");
  if (button) show(button.closest(".sample"), button.parentElement);
});
function drag(event) {
  const stage = event.target.closest(".stage");
  if (!stage) return;
  if (event.type === "pointerdown") stage.setPointerCapture(event.pointerId);
  else if (!event.buttons) return;
  const box = stage.getBoundingClientRect();
  reveal(stage.closest(".sample"), Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
}
place.addEventListener("pointerdown", drag);
place.addEventListener("pointermove", drag);

function fits(card, wanted) {
  const words = wanted.get("text").toLowerCase().split(/\s+/);
  return (
    ["kind", "retain", "several"].every((key) => !wanted.get(key) || card.dataset[key] === wanted.get(key)) &&
    words.every((word) => texts.get(card).includes(word)) &&
    (!wanted.get("failed") || card.querySelector(".failed"))
  );
}

function update() {
  const wanted = new FormData(form);
  const methods = new Set(wanted.getAll("method"));
  place.classList.toggle("no-region", !wanted.get("region"));
  for (const item of place.querySelectorAll("[data-method]")) item.hidden = !methods.has(item.dataset.method);
  let count = 0;
  for (const card of cards) {
    card.hidden = !fits(card, wanted);
    count += !card.hidden;
    // What is in the viewer must be among what is shown.
    const pressed = card.querySelector(".edits [aria-pressed='true']");
    if (!pressed || pressed.parentElement.hidden) show(card, card.querySelector(".edits li[data-method]:not([hidden]):has(img)"));
  }
  form.querySelector("output").textContent = `${count} of ${cards.length} samples`;
  document.querySelector(".empty").hidden = count > 0;
}

// By the scores of the method that stands in each viewer, the worst first.
function order() {
  const option = form.elements.order.selectedOptions[0];
  const sign = option.dataset.better === "higher" ? 1 : -1;
  const value = (card) => {
    const method = card.querySelector(".edits [aria-pressed='true']")?.parentElement.dataset.method;
    const cell = card.querySelector(`tr[data-method="${method}"]`)?.cells[Number(option.value) + 1];
    return cell && "value" in cell.dataset ? sign * Number(cell.dataset.value) : Infinity;
  };
  const keys = new Map(cards.map((card) => [card, option.value === "" ? 0 : value(card)]));
  const sorted = [...cards].sort((a, b) => keys.get(a) - keys.get(b) || 0); // a sort keeps the order of equals
  if (sorted.some((card, index) => card !== place.children[index])) place.append(...sorted);
}

form.addEventListener("input", (event) => {
  update();
  if (event.target.name === "order" || event.target.name === "method") order();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(() => (update(), order())));
document.querySelector(".empty button").addEventListener("click", () => form.reset());
// A browser may have kept the form as it was left.
update();
order();
