// An equation that is wider than the page scrolls in its box; with a tab stop it does so from the keyboard, too.
document.addEventListener("DOMContentLoaded", () => {
  const boxes = document.querySelectorAll(".equation");
  const stops = () => boxes.forEach((box) => (box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1));
  document.fonts.ready.then(stops);
  window.addEventListener("resize", stops);
});
