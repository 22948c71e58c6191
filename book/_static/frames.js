// A figure with a slider (flatlib/figures/slider.py): its slider and its button choose the frame. Without this script the
// last frame stands alone.
document.addEventListener("DOMContentLoaded", () => {
  const STEP_MS = 120;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  for (const figure of document.querySelectorAll(".frames")) {
    const [slider, button, words] = ["input", "button", "output"].map((tag) => figure.querySelector(tag));
    const captions = JSON.parse(figure.dataset.captions);
    const now = figure.querySelectorAll("[data-now]");
    const since = figure.querySelectorAll("[data-since]");
    let playing = null;

    const show = () => {
      const frame = slider.valueAsNumber;
      for (const group of now) group.style.display = Number(group.dataset.now) === frame ? "" : "none";
      for (const group of since) group.style.display = Number(group.dataset.since) <= frame ? "" : "none";
      words.textContent = captions[frame];
      slider.setAttribute("aria-valuetext", captions[frame]);
    };
    const pause = () => {
      clearInterval(playing);
      playing = null;
      button.textContent = "Play";
    };
    const play = () => {
      if (slider.value === slider.max) slider.value = slider.min;
      show();
      button.textContent = "Pause";
      playing = setInterval(() => {
        slider.stepUp();
        show();
        if (slider.value === slider.max) pause();
      }, STEP_MS);
    };
    // Nothing moves by itself, and nothing can be made to move where the reader prefers less motion.
    const respect = () => {
      if (still.matches) pause();
      button.style.visibility = still.matches ? "hidden" : "";
    };

    slider.addEventListener("input", () => { pause(); show(); });
    button.addEventListener("click", () => (playing === null ? play() : pause()));
    still.addEventListener("change", respect);
    show();
    respect();
    figure.querySelector(".frames-controls").style.visibility = "";
  }
});
