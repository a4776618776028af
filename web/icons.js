// Line icons on a 24 x 24 grid.
import { html } from './html.js';

const icon = (path) => () => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${path} /></svg>`;

export const Send = icon('M12 19V5M5.5 11.5 12 5l6.5 6.5');
export const Stop = icon('M7 7h10v10H7z');
export const Tune = icon('M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5');
export const Edit = icon('M5 19h3.5L19 8.5 15.5 5 5 15.5zM13 7.5l3.5 3.5');
export const Retry = icon('M19.5 12a7.5 7.5 0 1 1-2.2-5.3L19.5 9M19.5 4.5V9H15');
export const Copy = icon('M9 9h10v10H9zM15 9V5H5v10h4');
export const Odds = icon('M5 19V12M10 19V6M15 19v-4M20 19V9');
export const Plus = icon('M12 5v14M5 12h14');
export const Key = icon('M8 19.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM10.5 13.5 19 5M16 8l2.5 2.5M13.5 10.5l2 2');
export const Sun = icon('M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M5.6 18.4l1.1-1.1M17.3 6.7l1.1-1.1');
export const Moon = icon('M20 14.5A8 8 0 1 1 9.5 4a6.5 6.5 0 0 0 10.5 10.5z');
export const Pulse = icon('M3 12h4l3-7 4 14 3-7h4');
export const Down = icon('M12 5v14M5.5 12.5 12 19l6.5-6.5');
