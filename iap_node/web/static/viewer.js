// Slices of a series: a slider for the place, two for the window; the server makes each picture.
"use strict";

document.addEventListener("DOMContentLoaded", async () => {
  const viewer = document.querySelector("[data-slices]");
  if (viewer === null) return;
  const base = viewer.dataset.slices;
  const image = viewer.querySelector("img");
  const says = viewer.querySelector("[data-viewer-says]");
  const sliders = viewer.querySelector(".sliders");
  const [place, centre, width] = ["place", "centre", "width"].map((name) => viewer.querySelector(`[name=${name}]`));
  let automatic = true;
  let wanted = 0;

  const answer = await fetch(`${base}`);
  const found = answer.ok ? await answer.json() : { slices: 0, problems: [] };
  if (found.slices === 0) {
    says.textContent = found.problems.length ? `no images: ${found.problems[0]}` : "no images that can be shown";
    return;
  }
  says.textContent = found.problems.length ? `${found.problems.length} instances cannot be read: ${found.problems[0]}` : "";
  place.max = found.slices - 1;
  place.value = Math.floor(found.slices / 2);
  sliders.hidden = false;

  async function show() {
    const turn = ++wanted;
    const query = automatic ? "" : `?centre=${centre.value}&width=${width.value}`;
    viewer.querySelector("output").textContent = `${Number(place.value) + 1} of ${found.slices}`;
    const picture = await fetch(`${base}/${place.value}.png${query}`);
    if (turn !== wanted) return; // a later one is on its way
    if (!picture.ok) {
      says.textContent = "this slice is damaged";
      return;
    }
    if (automatic) {
      const at = Number(picture.headers.get("X-Window-Centre"));
      const wide = Number(picture.headers.get("X-Window-Width"));
      [centre.min, centre.max, centre.step] = [Math.min(0, at - 2 * wide), at + 2 * wide, wide / 200];
      [width.min, width.max, width.step] = [wide / 100, 4 * wide, wide / 200];
      [centre.value, width.value] = [at, wide];
    }
    const reader = new FileReader();
    reader.onload = () => {
      image.src = reader.result;
      image.hidden = false;
    };
    reader.readAsDataURL(await picture.blob());
  }

  place.addEventListener("input", show);
  for (const slider of [centre, width]) {
    slider.addEventListener("input", () => {
      automatic = false;
      show();
    });
  }
  viewer.querySelector("[data-viewer-reset]").addEventListener("click", () => {
    automatic = true;
    show();
  });
  image.addEventListener("wheel", (event) => {
    event.preventDefault();
    place.value = Number(place.value) + Math.sign(event.deltaY);
    show();
  });
  show();
});
