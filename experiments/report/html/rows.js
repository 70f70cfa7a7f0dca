// A row of videos that play as one. The longest is the clock; shorter ones stand still at their end.
const DRIFT = 0.08; // seconds a video may be off before it is set right
const players = new Map(); // by the row's element

class RowPlayer {
  constructor(row) {
    this.row = row;
    this.films = [...row.querySelectorAll(".film")].filter((film) => film.querySelector("video"));
    this.videos = this.films.map((film) => film.querySelector("video"));
    this.button = row.querySelector(".play");
    this.scrub = row.querySelector(".scrub");
    this.clock = row.querySelector(".clock");
    this.time = 0;
    this.isPlaying = false;
    this.isLoaded = false;
    this.button.addEventListener("click", () => this.toggle());
    this.scrub.addEventListener("input", () => this.seek((this.scrub.value / 1000) * this.duration));
    for (const video of this.videos) video.addEventListener("click", () => this.toggle());
    for (const video of this.videos) video.addEventListener("durationchange", () => this.show());
  }

  get longest() {
    return this.videos.reduce((one, other) => ((other.duration || 0) > (one.duration || 0) ? other : one));
  }

  get duration() {
    return this.longest.duration || 0;
  }

  async load() {
    if (this.isLoaded || !this.videos.length) return;
    this.isLoaded = true;
    await Promise.all(this.videos.map((video, index) => give(video, this.films[index].dataset.trial)));
    this.seek(this.time);
  }

  unload() { // browsers hold few decoders
    if (!this.isLoaded) return;
    this.pause();
    this.isLoaded = false;
    for (const video of this.videos) {
      video.removeAttribute("src");
      video.load();
    }
  }

  async toggle() {
    if (this.isPlaying) return this.pause();
    if (!this.videos.length) return;
    for (const other of players.values()) if (other !== this) other.pause();
    this.isPlaying = true;
    this.button.setAttribute("aria-pressed", "true");
    this.button.setAttribute("aria-label", "Pause");
    await this.load();
    if (this.time >= this.duration - 0.05) this.seek(0);
    await Promise.allSettled(this.videos.map((video) => video.play()));
    if (this.isPlaying) this.follow();
  }

  pause() {
    if (!this.isPlaying) return;
    this.isPlaying = false;
    this.button.setAttribute("aria-pressed", "false");
    this.button.setAttribute("aria-label", "Play");
    for (const video of this.videos) video.pause();
    this.seek(this.time);
  }

  seek(time) {
    this.time = time;
    for (const video of this.videos) video.currentTime = Math.min(time, video.duration || time);
    this.show();
  }

  follow() {
    if (!this.isPlaying) return;
    const clock = this.longest;
    this.time = clock.currentTime;
    if (clock.ended) {
      this.seek(0);
      for (const video of this.videos) video.play().catch(() => {});
    }
    for (const video of this.videos) {
      const wanted = Math.min(this.time, video.duration || 0);
      if (video !== clock && !video.seeking && Math.abs(video.currentTime - wanted) > DRIFT) video.currentTime = wanted;
    }
    this.show();
    requestAnimationFrame(() => this.follow());
  }

  show() {
    this.scrub.value = this.duration ? Math.round((1000 * this.time) / this.duration) : 0;
    this.clock.textContent = `${this.time.toFixed(1)} / ${this.duration.toFixed(1)} s`;
    this.scrub.setAttribute("aria-valuetext", `${this.time.toFixed(1)} seconds`);
  }
}

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) players.get(target).load();
      else players.get(target).unload();
    }
  },
  { rootMargin: "500px 0px" },
);
for (const row of document.querySelectorAll(".row")) {
  players.set(row, new RowPlayer(row));
  near.observe(row);
}
document.addEventListener("view", ({ detail }) => {
  if (detail !== "videos") for (const player of players.values()) player.pause();
});
