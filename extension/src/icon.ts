import { LabIcon } from '@jupyterlab/ui-components';

/** A ring, and a message on it. */
export const icon = new LabIcon({
  name: 'pydotcompute:ring',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M12 3a9 9 0 1 0 9 9h-2.6a6.4 6.4 0 1 1-6.4-6.4z"/>
    <circle cx="18.4" cy="5.6" r="3.2"/>
  </g>
</svg>`
});
