// Each pair shows two of its pictures, cut at the slider.
for (const pair of document.querySelectorAll(".pair")) {
  const slider = pair.querySelector("input");
  const sides = pair.querySelectorAll("select");
  const pictures = pair.querySelectorAll("img");
  const draw = () => {
    for (const picture of pictures) {
      picture.className = "";
      picture.style.clipPath = "";
    }
    for (const side of sides) {
      const picture = pictures[side.value];
      picture.classList.add(side.dataset.side);
      if (side.dataset.side === "left") continue;
      const same = sides[0].value === side.value;
      picture.style.clipPath = same ? "none" : `inset(0 0 0 ${slider.value}%)`;
    }
  };
  slider.addEventListener("input", draw);
  sides.forEach((side) => side.addEventListener("change", draw));
}
